/* The load generator of the benchmarks: many WebSocket clients on loopback, which check
 * every message, driven by the harness over stdin.
 *
 *   load PLAN        see plan.h; then one command per line, one JSON object in answer:
 *
 *   connect receivers=N deaf=N publishers=N at_once=64 timeout=60
 *                                  opens connections up to these totals, latency is their time to ready
 *   window window=W seconds=S [messages=N] [until=answered]
 *                                  W messages in flight, each until all have it (or until it is answered)
 *   rate per_second=R seconds=S    a fixed rate; "behind": how long the last message took to reach all
 *   echo window=W seconds=S [messages=N] [per_second=R]
 *                                  every publisher keeps W commands in flight until each is answered
 *   expect messages=N              somebody else publishes the next N messages from now on; the clock starts
 *   arrive timeout=S               waits until all receivers have them all
 *   idle seconds=S                 answers pings only
 *   deaf                           how many of the deaf the server has closed; they read from then on
 *
 * Times are in seconds, "cpu" is what this process used meanwhile. Traffic stops after S
 * seconds, or N messages when that is earlier; the clock stops when the last message has arrived. Any fault (a message lost
 * without notice, twice or out of order, a refusal, a closed connection, a deadline) ends
 * the program: {"error": ...}, status 1. It ends by itself with stdin, and stops connecting,
 * draining and waiting at deadlines of its own. */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_EVENTS 512
#define MAX_COMMAND 512
#define COMMAND_TIMEOUT 600 /* the harness is gone when it says nothing for so long (s) */

struct load load;
static int timer;

void fail(const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fputs("{\"error\": \"", stdout);
    for (const unsigned char *at = (unsigned char *)text; *at; at++) {
        if (*at == '"' || *at == '\\')
            printf("\\%c", *at);
        else if (*at < 0x20 || *at > 0x7e)
            printf("\\u%04x", *at);
        else
            putchar(*at);
    }
    puts("\"}");
    fflush(stdout);
    exit(1);
}

uint64_t clock_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NANO + (uint64_t)time.tv_nsec;
}

/* A timer file rather than epoll's own timeout, which counts in whole milliseconds. */
static void wake_at(uint64_t when)
{
    static uint64_t armed;
    if (when == armed)
        return;
    armed = when;
    struct itimerspec at = {.it_value = {.tv_sec = (time_t)(when / NANO), .tv_nsec = (long)(when % NANO)}};
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL))
        fail("timerfd: %s", strerror(errno));
}

void load_step(uint64_t until)
{
    struct epoll_event events[MAX_EVENTS];
    wake_at(until);
    int count = epoll_wait(load.epoll, events, MAX_EVENTS, 1000);
    if (count < 0 && errno != EINTR)
        fail("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        struct connection *c = events[i].data.ptr;
        uint64_t expirations;
        if (!c) {
            if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
                fail("timerfd: %s", strerror(errno));
            continue;
        }
        if (events[i].events & EPOLLOUT || c->state == CONNECTING)
            conn_ready_to_write(c);
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            conn_ready_to_read(c);
    }
    conn_flush_dirty();
}

static void *connections(uint32_t count)
{
    void *memory = calloc(count + 1, sizeof(struct connection));
    if (!memory)
        fail("out of memory");
    return memory;
}

/* One line of stdin, serving the connections while it is awaited; false at its end. */
static bool next_command(char *line, size_t size)
{
    static char buffer[MAX_COMMAND];
    static size_t have;
    uint64_t deadline = clock_now() + COMMAND_TIMEOUT * NANO;
    while (clock_now() < deadline) {
        char *end = memchr(buffer, '\n', have);
        if (end) {
            size_t length = (size_t)(end - buffer);
            snprintf(line, size, "%.*s ", (int)length, buffer);
            have -= length + 1;
            memmove(buffer, end + 1, have);
            return true;
        }
        struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
        if (poll(&input, 1, 0) == 1) {
            ssize_t got = have < sizeof buffer ? read(STDIN_FILENO, buffer + have, sizeof buffer - have) : 0;
            if (got <= 0)
                return false;
            have += (size_t)got;
            continue;
        }
        load_step(clock_now() + NANO / 200);
    }
    return false;
}

int main(int count, char **arguments)
{
    static char line[MAX_COMMAND];
    struct rlimit files;
    if (count != 2)
        fail("usage: load PLAN");
    plan_read(&load.plan, arguments[1]);
    traffic_prepare();
    secure_prepare();
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    load.epoll = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (load.epoll < 0 || timer < 0 || epoll_ctl(load.epoll, EPOLL_CTL_ADD, timer, &event))
        fail("epoll: %s", strerror(errno));
    load.receivers = connections(load.plan.receivers);
    load.deaf = connections(load.plan.deaf);
    load.publishers = connections(load.plan.publishers);
    while (next_command(line, sizeof line))
        run_command(line);
    return 0;
}
