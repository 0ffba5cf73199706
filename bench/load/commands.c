/* The commands of the harness, one line each; load.c has their table. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

#define MAX_SECONDS 600
#define DEAF_SECONDS 5

static bool open_next(uint32_t receivers, uint32_t deaf, uint32_t publishers)
{
    struct { struct connection *all; uint32_t *open, wanted; enum role role; } kinds[] = {
        {load.receivers, &load.receivers_open, receivers, RECEIVER},
        {load.deaf, &load.deaf_open, deaf, DEAF},
        {load.publishers, &load.publishers_open, publishers, PUBLISHER},
    };
    uint32_t client = load.receivers_open + load.deaf_open + load.publishers_open;
    for (int i = 0; i < 3; i++) {
        if (*kinds[i].open < kinds[i].wanted) {
            conn_open(&kinds[i].all[*kinds[i].open], kinds[i].role, *kinds[i].open, client);
            ++*kinds[i].open;
            return true;
        }
    }
    return false;
}

static void run_connect(uint32_t receivers, uint32_t deaf, uint32_t publishers, uint32_t at_once, double timeout)
{
    const struct plan *plan = &load.plan;
    if (receivers > plan->receivers || deaf > plan->deaf || publishers > plan->publishers)
        fail("connect: more than the plan has");
    traffic_begin();
    uint64_t deadline = load.now + (uint64_t)(timeout * NANO);
    for (;;) {
        while (load.opening < at_once && open_next(receivers, deaf, publishers))
            ;
        if (!load.opening)
            break;
        load_step(deadline);
        if (clock_now() >= deadline)
            fail("connect: %u connections were not ready within %.0f s", load.opening, timeout);
    }
    traffic_report(clock_now(), "");
}

/* How many of the deaf the server has closed. The end of their streams is behind all that
 * they did not read, so they read it now: for DEAF_SECONDS, or until nothing more comes. */
static unsigned deaf_closed(void)
{
    static uint8_t ignored[1u << 16];
    unsigned closed = 0;
    uint64_t deadline = clock_now() + DEAF_SECONDS * NANO, quiet_since = clock_now();
    while (clock_now() < deadline && clock_now() < quiet_since + NANO / 2) {
        for (uint32_t i = 0; i < load.deaf_open; i++) {
            struct connection *c = &load.deaf[i];
            ssize_t got = c->fd < 0 ? -1 : recv(c->fd, ignored, sizeof ignored, 0);
            if (c->fd < 0 || (got < 0 && errno == EAGAIN))
                continue;
            quiet_since = clock_now();
            if (got <= 0) {
                close(c->fd);
                c->fd = -1;
            }
        }
    }
    for (uint32_t i = 0; i < load.deaf_open; i++)
        closed += load.deaf[i].fd < 0;
    return closed;
}

static double option(const char *line, const char *key, double fallback, double least, double most)
{
    size_t length = strlen(key);
    for (const char *at = line; (at = strstr(at, key)); at += length) {
        if (at[-1] != ' ' || at[length] != '=')
            continue;
        double value = atof(at + length + 1);
        if (!(value >= least && value <= most))
            fail("%s: out of range", key);
        return value;
    }
    return fallback;
}

void run_command(const char *line)
{
    double length = option(line, "seconds", 1, 0, MAX_SECONDS);
    uint64_t messages = (uint64_t)option(line, "messages", 1e15, 1, 1e15);
    uint32_t in_flight = (uint32_t)option(line, "window", 1, 1, MAX_WINDOW);
    if (!strncmp(line, "connect ", 8)) {
        run_connect((uint32_t)option(line, "receivers", load.receivers_open, 0, 1e6),
                    (uint32_t)option(line, "deaf", load.deaf_open, 0, 1e6),
                    (uint32_t)option(line, "publishers", load.publishers_open, 0, 1e6),
                    (uint32_t)option(line, "at_once", 64, 1, 1e6), option(line, "timeout", 60, 1, MAX_SECONDS));
    } else if (!strncmp(line, "idle ", 5)) {
        run_idle(length);
    } else if (!strncmp(line, "deaf ", 5)) {
        printf("{\"closed\": %u}\n", deaf_closed());
        fflush(stdout);
    } else if (!strncmp(line, "expect ", 7)) {
        run_expect(messages);
    } else if (!strncmp(line, "arrive ", 7)) {
        run_arrive(option(line, "timeout", 60, 0.1, MAX_SECONDS));
    } else if (!load.publishers_open || load.publishers_open != load.plan.publishers) {
        fail("traffic before all publishers are connected");
    } else if (!strncmp(line, "echo ", 5)) {
        run_echo(length, messages, in_flight, option(line, "per_second", 0, 0, 1e6));
    } else if (load.receivers_open != load.plan.receivers) {
        fail("traffic before all receivers are connected");
    } else if (!strncmp(line, "window ", 7)) {
        run_window(length, messages, in_flight, strstr(line, " until=answered") != NULL);
    } else if (!strncmp(line, "rate ", 5)) {
        run_rate(length, option(line, "per_second", 1, 0.01, 1e6));
    } else {
        fail("unknown command: %.80s", line);
    }
}
