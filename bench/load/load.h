/* What the parts of the load generator share. One thread, one epoll, one instance. */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "hist.h"
#include "plan.h"

#define NANO 1000000000ull

enum role { RECEIVER, DEAF, PUBLISHER };
enum state { CLOSED, CONNECTING, HEAD, STEPS, JOINING, READY };

struct connection {
    int fd;
    enum role role;
    enum state state;
    uint32_t index; /* among its role */
    uint32_t client; /* among all */
    int step;
    uint64_t join; /* next join number, see plan.h */
    const struct profile *profile;
    uint8_t *in, *out; /* what is left of the last read; what the socket did not take yet */
    uint32_t in_length, in_size, out_length, out_size;
    uint32_t hint; /* where the marker was found last */
    bool dirty, watching_writes, excused; /* excused: a loss was announced */
    void *tls; /* the SSL, or NULL */
    bool hears_first; /* TLS writes on when something has come */
    bool more; /* TLS may hold more than was read */
    uint64_t opened;
    struct exchange *exchange; /* commands in flight (publishers only) */
};

#define MAX_WINDOW 64
struct exchange {
    uint64_t oldest, next, answered; /* numbers in flight: oldest .. next-1; bit i: oldest+i is answered */
    uint64_t sent_at[MAX_WINDOW];
};

struct load {
    struct plan plan;
    int epoll;
    struct connection *receivers, *deaf, *publishers;
    uint32_t receivers_open, deaf_open, publishers_open; /* opened so far; not yet ready: `opening` */
    uint32_t opening;
    uint64_t now, pings, announced_losses;
    struct hist latency;
};
extern struct load load;

/* Ends the program: prints {"error": ...} on stdout, status 1. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t clock_now(void);

/* conn.c */
void conn_open(struct connection *c, enum role role, uint32_t index, uint32_t client);
void conn_ready_to_read(struct connection *c);
void conn_ready_to_write(struct connection *c);
void conn_flush(struct connection *c);
void conn_flush_dirty(void);
/* Queues one message; it goes out with the next conn_flush_dirty(). */
void conn_say(struct connection *c, const struct template *what, uint64_t number, uint32_t room);
/* Never reads it again. */
void conn_ignore(struct connection *c);
const char *conn_name(const struct connection *c);

/* secure.c: as send() and recv(), over TLS */
void secure_prepare(void);
void secure_begin(struct connection *c);
ssize_t secure_send(struct connection *c, const uint8_t *data, size_t length);
ssize_t secure_recv(struct connection *c, uint8_t *data, size_t room);

/* message.c */
/* Goes on with the profile's steps as far as nothing has to be awaited. */
void conn_advance(struct connection *c);
void conn_message(struct connection *c, const uint8_t *data, size_t length);

/* traffic.c: called for each message that was received */
void on_ready(struct connection *c);
void on_event(struct connection *c, uint64_t number);
void on_answer(struct connection *c, uint64_t number);
/* Called once the plan is read. */
void traffic_prepare(void);
/* Starts the books and the clock of one command, and prints them; `more` is JSON to add. */
void traffic_begin(void);
void traffic_report(uint64_t end, const char *more);
void run_window(double length, uint64_t messages, uint32_t in_flight, bool answers);
void run_rate(double length, double per_second);
void run_echo(double length, uint64_t messages, uint32_t in_flight, double per_second);
void run_idle(double length);
void run_expect(uint64_t messages);
void run_arrive(double timeout);

/* commands.c */
/* Runs one command line of the harness and prints its result. */
void run_command(const char *line);

/* load.c */
/* Waits for what the sockets have, at most until `until` (ns), and handles it. */
void load_step(uint64_t until);

#endif
