/* The kinds of traffic, and the books that are kept over it.
 *
 * Message n goes to room n % rooms. Its members are join numbers room * members ... and
 * each of them must get it exactly once and in order: `expected` has, for each join
 * number, the next message it must bring, and `missing` has, for each message in flight,
 * how many members still wait for it. Anything else ends the run. A message counts as in
 * flight from its publication until its last member has it.
 *
 * Latency is counted from `sent_at`, which at a fixed rate is the time at which the
 * message was due, not the time at which we got round to it: a server that delays us
 * cannot hide the delay. The publisher and all receivers are this process, so the time
 * need not travel in the message. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "load.h"

#define RING 8192u /* most messages in flight */
#define MAX_SECONDS 600
#define DRAIN_SECONDS 20
#define MAX_EXPECTED 100000000ull

static uint64_t *expected; /* by join number */
static uint32_t missing[RING];
static uint64_t sent_at[RING];
static uint64_t next, oldest; /* messages oldest .. next-1 are in flight */
static uint64_t published, answered, said, deliveries, echoes, last_at, stop_at;
static uint64_t most_said;
static uint32_t window;
static bool echoing;
static uint64_t foreign; /* deliveries still to come of what somebody else publishes */

/* Numbers begin with `rooms`, because some protocols give zero a meaning of its own. */
void traffic_prepare(void)
{
    uint64_t joins = (uint64_t)load.plan.rooms * load.plan.members;
    if (!(expected = calloc(joins + 1, sizeof *expected)))
        fail("out of memory");
    for (uint64_t i = 0; i < joins; i++)
        expected[i] = load.plan.rooms + i / load.plan.members;
    next = oldest = load.plan.rooms;
}

void on_ready(struct connection *c) { hist_add(&load.latency, load.now - c->opened); }

static void settle(void)
{
    while (oldest < next && !missing[oldest % RING])
        oldest++;
}

void on_event(struct connection *c, uint64_t number)
{
    const struct plan *plan = &load.plan;
    uint32_t room = (uint32_t)(number % plan->rooms);
    uint64_t first = (uint64_t)room * plan->members;
    uint64_t place = (c->index + plan->receivers - first % plan->receivers) % plan->receivers;
    if (place >= plan->members)
        fail("%s: got message %llu of room %u, where it is not", conn_name(c), (unsigned long long)number, room);
    uint64_t *want = &expected[first + place];
    if (number >= next)
        fail("%s: got message %llu, which was never sent", conn_name(c), (unsigned long long)number);
    if (number < *want)
        fail("%s: got message %llu again or late", conn_name(c), (unsigned long long)number);
    if (number > *want && !c->excused)
        fail("%s: lost %llu messages without notice: expected %llu, got %llu", conn_name(c),
             (unsigned long long)((number - *want) / plan->rooms), (unsigned long long)*want,
             (unsigned long long)number);
    c->excused = false;
    deliveries++;
    last_at = load.now;
    if (foreign) {
        foreign -= 1 + (number - *want) / plan->rooms;
        *want = number + plan->rooms;
        return;
    }
    for (; *want < number; *want += plan->rooms)
        missing[*want % RING]--;
    *want += plan->rooms;
    missing[number % RING]--;
    hist_add(&load.latency, load.now > sent_at[number % RING] ? load.now - sent_at[number % RING] : 0);
    if (number == oldest)
        settle();
}

static void echo_say(struct connection *c, uint64_t at)
{
    struct exchange *x = c->exchange;
    said++;
    x->sent_at[x->next % MAX_WINDOW] = at;
    conn_say(c, &c->profile->publish, x->next++, c->index);
}

void on_answer(struct connection *c, uint64_t number)
{
    struct exchange *x = c->exchange;
    answered++;
    if (!echoing)
        return;
    if (number < x->oldest || number >= x->next || x->answered >> (number - x->oldest) & 1)
        fail("%s: an answer to %llu, which is not in flight", conn_name(c), (unsigned long long)number);
    if (load.plan.ordered && number != x->oldest)
        fail("%s: answered %llu before %llu", conn_name(c), (unsigned long long)number, (unsigned long long)x->oldest);
    x->answered |= 1ull << (number - x->oldest);
    while (x->answered & 1) {
        x->answered >>= 1;
        x->oldest++;
    }
    echoes++;
    last_at = load.now;
    hist_add(&load.latency, load.now - x->sent_at[number % MAX_WINDOW]);
    while (load.now < stop_at && said < most_said && x->next - x->oldest < window)
        echo_say(c, load.now);
}

static void publish(uint64_t due)
{
    uint32_t room = (uint32_t)(next % load.plan.rooms);
    missing[next % RING] = load.plan.members;
    sent_at[next % RING] = due;
    conn_say(&load.publishers[next % load.plan.publishers], &load.plan.publisher.publish, next, room);
    next++;
    published++;
    settle();
}

static double seconds(uint64_t ns) { return (double)ns / NANO; }

static double own_cpu(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
           (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

/* What the current command began with. */
static struct { uint64_t at, messages, deliveries, echoes, pings; double cpu; } begun;

void traffic_begin(void)
{
    hist_clear(&load.latency);
    load.now = clock_now();
    last_at = load.now;
    begun.at = load.now;
    begun.messages = next;
    begun.deliveries = deliveries;
    begun.echoes = echoes;
    begun.pings = load.pings;
    begun.cpu = own_cpu();
}

void traffic_report(uint64_t end, const char *more)
{
    const struct hist *h = &load.latency;
    printf("{\"seconds\": %.6f, \"cpu\": %.6f, \"messages\": %llu, \"deliveries\": %llu, \"echoes\": %llu, "
           "\"pings\": %llu, \"announced_losses\": %llu, \"samples\": %llu, \"p50\": %.9f, \"p99\": %.9f, "
           "\"p999\": %.9f, \"max\": %.9f%s}\n",
           seconds(end - begun.at), own_cpu() - begun.cpu, (unsigned long long)(next - begun.messages),
           (unsigned long long)(deliveries - begun.deliveries), (unsigned long long)(echoes - begun.echoes),
           (unsigned long long)(load.pings - begun.pings), (unsigned long long)load.announced_losses,
           (unsigned long long)h->count, seconds(hist_quantile(h, 0.5)), seconds(hist_quantile(h, 0.99)),
           seconds(hist_quantile(h, 0.999)), seconds(h->max), more);
    fflush(stdout);
}

static void drain(const char *what)
{
    uint64_t deadline = clock_now() + DRAIN_SECONDS * NANO;
    for (;;) {
        bool flying = oldest < next || (!echoing && load.plan.publisher.answer.length && answered < published);
        for (uint32_t i = 0; echoing && i < load.publishers_open; i++)
            flying |= load.publishers[i].exchange->oldest < load.publishers[i].exchange->next;
        if (!flying)
            return;
        load_step(deadline);
        if (clock_now() >= deadline)
            fail("%s: not all messages arrived within %d s of the last one: message %llu of %llu is missing",
                 what, DRAIN_SECONDS, (unsigned long long)oldest, (unsigned long long)next);
    }
}

void run_window(double length, uint64_t messages, uint32_t in_flight, bool answers)
{
    traffic_begin();
    stop_at = begun.at + (uint64_t)(length * NANO);
    while ((load.now = clock_now()) < stop_at && next - begun.messages < messages) {
        while (next - begun.messages < messages && next - oldest < RING &&
               (answers ? published - answered : next - oldest) < in_flight)
            publish(load.now);
        conn_flush_dirty();
        load_step(stop_at);
    }
    drain("window");
    traffic_report(last_at, "");
}

void run_rate(double length, double per_second)
{
    char more[64];
    bool overrun = false;
    traffic_begin();
    stop_at = begun.at + (uint64_t)(length * NANO);
    for (uint64_t i = 0;; i++) {
        uint64_t due = begun.at + (uint64_t)((double)i / per_second * NANO);
        while (clock_now() < due && due < stop_at)
            load_step(due);
        if (due >= stop_at || (overrun = next - oldest == RING))
            break;
        publish(due);
        conn_flush_dirty();
    }
    uint64_t last_due = clock_now();
    drain("rate");
    snprintf(more, sizeof more, ", \"overrun\": %s, \"behind\": %.6f", overrun ? "true" : "false",
             last_at > last_due ? seconds(last_at - last_due) : 0);
    traffic_report(last_at, more);
}

/* Each publisher at each `due`; a server that is late does not delay the next, up to MAX_WINDOW of them. */
static void echo_at_rate(double per_second)
{
    for (uint64_t i = 0;; i++) {
        uint64_t due = begun.at + (uint64_t)((double)i / per_second * NANO);
        while (clock_now() < due && due < stop_at)
            load_step(due);
        for (uint32_t j = 0; due < stop_at && j < load.publishers_open; j++) {
            struct exchange *x = load.publishers[j].exchange;
            while (x->next - x->oldest == MAX_WINDOW && clock_now() < stop_at)
                load_step(stop_at);
            if (x->next - x->oldest < MAX_WINDOW)
                echo_say(&load.publishers[j], due);
        }
        conn_flush_dirty();
        if (due >= stop_at || clock_now() >= stop_at)
            return;
    }
}

void run_echo(double length, uint64_t messages, uint32_t in_flight, double per_second)
{
    traffic_begin();
    stop_at = begun.at + (uint64_t)(length * NANO);
    window = per_second > 0 ? 0 : in_flight;
    most_said = said + messages;
    echoing = true;
    for (uint32_t i = 0; i < load.publishers_open; i++)
        for (uint32_t j = 0; j < window && said < most_said; j++)
            echo_say(&load.publishers[i], load.now);
    conn_flush_dirty();
    if (per_second > 0)
        echo_at_rate(per_second);
    while (clock_now() < stop_at && echoes - begun.echoes < messages)
        load_step(stop_at);
    drain("echo");
    echoing = false;
    traffic_report(last_at, "");
}

void run_expect(uint64_t messages)
{
    if (messages > MAX_EXPECTED)
        fail("expect: out of range");
    traffic_begin();
    foreign = messages * load.plan.members;
    printf("{\"first\": %llu}\n", (unsigned long long)next);
    oldest = next += messages;
    fflush(stdout);
}

void run_arrive(double timeout)
{
    uint64_t deadline = clock_now() + (uint64_t)(timeout * NANO);
    while (foreign) {
        load_step(deadline);
        if (clock_now() >= deadline)
            fail("arrive: %llu deliveries are missing after %.0f s", (unsigned long long)foreign, timeout);
    }
    traffic_report(last_at, "");
}

void run_idle(double length)
{
    traffic_begin();
    uint64_t end = begun.at + (uint64_t)(length * NANO);
    while (clock_now() < end)
        load_step(end);
    traffic_report(end, "");
}
