/* The plan: what to connect to, and what is said there. The harness writes it as text,
 * because it knows the protocols of the subjects; the load generator knows none.
 *
 *   port 9000                 on 127.0.0.1; no other address can be named
 *   publisher_port 9001       where the publishers connect, when that is another server
 *   sources 1                 loopback addresses to connect from: 127.0.0.1, 127.0.0.2 ...
 *   tokens FILE               one line per connection, for %t; used again from the start when short
 *   rooms 1                   message n goes to room n % rooms
 *   members 500               receivers in each room; join number g is receiver g % receivers, room g / members
 *   receivers 500             most connections that check every message
 *   deaf 0                    most connections that join room 0 and then never read
 *   deaf_buffer 4096          their SO_RCVBUF
 *   publishers 1
 *   tls 0                     1: all connections are TLS 1.3; none may be deaf
 *   ordered 1                 answers come in the order of their commands
 *
 *   [receiver]                once, or several times: receiver i speaks the (i % sections)th
 *   opcode text|binary        of what we send
 *   head ...                  request head (with the key that ws.h expects)
 *   send ... / expect ...     said, and awaited, before the connection is ready, in this order
 *   join ... / joined ...     then once for each of its rooms
 *   event ...                 marks the number of a message: decimal in text, CBOR in binary
 *   refusal ...               a message holding this fails the run (may be repeated)
 *   lost ...                  a message holding this announces a loss
 *   ping ... / pong ...       a line to be answered by another
 *   [publisher]               as above, and
 *   publish ...               one message
 *   answer ...                marks the number in what answers it
 *
 * In texts: %n number, %r room and %c connection (five digits), %t token, %% a percent
 * sign, and the escapes \r \n \\ \xHH. */
#ifndef PLAN_H
#define PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bytes {
    uint8_t *data;
    size_t length;
};

enum part_kind { PART_TEXT, PART_NUMBER, PART_ROOM, PART_CLIENT, PART_TOKEN };
struct part {
    enum part_kind kind;
    struct bytes text;
};
#define MAX_PARTS 16
struct template {
    struct part parts[MAX_PARTS];
    int count;
};

#define MAX_STEPS 8
struct step {
    bool expect;
    struct template said;
    struct bytes marker;
};

#define MAX_REFUSALS 4
struct profile {
    uint8_t opcode;
    struct template head, join, publish, pong;
    struct step steps[MAX_STEPS];
    int step_count;
    struct bytes joined, event, answer, lost, ping, refusals[MAX_REFUSALS];
    int refusal_count;
};

#define MAX_RECEIVER_PROFILES 4
struct plan {
    uint16_t port, publisher_port;
    uint32_t sources, rooms, members, receivers, deaf, deaf_buffer, publishers, ordered, tls;
    struct profile receiver[MAX_RECEIVER_PROFILES], publisher;
    uint32_t receiver_profiles;
    char **tokens;
    size_t token_count;
};

/* Both end the program with a message when the plan cannot be used. */
void plan_read(struct plan *plan, const char *path);
/* Renders into `to` (of `room_for` bytes); returns the length. */
size_t template_render(const struct template *t, const struct plan *plan, bool binary, uint8_t *to,
                       size_t room_for, uint64_t number, uint32_t room, uint32_t client);

#endif
