/* What a connection says on its way to READY, and what its messages mean. */
#define _GNU_SOURCE
#include <string.h>

#include "load.h"
#include "ws.h"

static bool holds(const uint8_t *data, size_t length, const struct bytes *marker)
{
    return marker->length && memmem(data, length, marker->data, marker->length);
}

/* Goes on with the profile's steps as far as nothing has to be awaited. */
void conn_advance(struct connection *c)
{
    const struct profile *p = c->profile;
    while (c->state == STEPS) {
        if (c->step == p->step_count) {
            c->state = JOINING;
        } else if (p->steps[c->step].expect) {
            return;
        } else {
            conn_say(c, &p->steps[c->step++].said, 0, 0);
        }
    }
    uint64_t joins = c->role == RECEIVER ? (uint64_t)load.plan.rooms * load.plan.members : 1;
    if (c->role != PUBLISHER && p->join.count && c->join < joins) {
        uint32_t room = c->role == RECEIVER ? (uint32_t)(c->join / load.plan.members) : 0;
        conn_say(c, &p->join, c->join + 1, room);
        if (p->joined.length)
            return;
        c->join += c->role == RECEIVER ? load.plan.receivers : 1;
        return conn_advance(c);
    }
    c->state = READY;
    load.opening--;
    if (c->role == DEAF)
        conn_ignore(c);
    on_ready(c);
}

/* The number after a marker, decimal or CBOR; moves *at behind it. */
static uint64_t number_at(const struct connection *c, const uint8_t **at, const uint8_t *end)
{
    const uint8_t *p = *at;
    uint64_t value = 0;
    if (c->profile->opcode == WS_BINARY) {
        unsigned first = p < end ? *p++ : 0xff;
        int width = first < 24 ? 0 : first < 28 ? 1 << (first - 24) : -1;
        if (width < 0 || p + width > end)
            fail("%s: no number behind the marker", conn_name(c));
        value = width ? 0 : first;
        while (width--)
            value = value << 8 | *p++;
    } else {
        while (p < end && *p == ' ')
            p++;
        if (p == end || *p < '0' || *p > '9')
            fail("%s: no number behind the marker", conn_name(c));
        while (p < end && *p >= '0' && *p <= '9')
            value = value * 10 + (uint64_t)(*p++ - '0');
    }
    *at = p;
    return value;
}

/* True when one of the lines in the message is the profile's ping. */
static bool is_ping(const struct connection *c, const uint8_t *data, size_t length)
{
    const struct bytes *ping = &c->profile->ping;
    for (const uint8_t *at = data, *end = data + length; ping->length && at < end;) {
        const uint8_t *stop = memchr(at, '\n', (size_t)(end - at));
        if ((size_t)((stop ? stop : end) - at) == ping->length && !memcmp(at, ping->data, ping->length))
            return true;
        if (!stop)
            break;
        at = stop + 1;
    }
    return false;
}

void conn_message(struct connection *c, const uint8_t *data, size_t length)
{
    const struct profile *p = c->profile;
    const struct bytes *marker = c->role == PUBLISHER ? &p->answer : &p->event;
    const uint8_t *at = data, *end = data + length;
    unsigned found = 0;
    for (int i = 0; i < p->refusal_count && (c->state != READY || c->role == PUBLISHER); i++)
        if (holds(data, length, &p->refusals[i]))
            fail("%s: refused: %.*s", conn_name(c), (int)(length < 300 ? length : 300), data);
    if (c->state == READY && marker->length) {
        /* The marker is nearly always where it was in the last message. */
        if (c->hint + marker->length < length && !memcmp(data + c->hint, marker->data, marker->length))
            at = data + c->hint;
        else
            at = memmem(data, length, marker->data, marker->length);
        if (at)
            c->hint = (uint32_t)(at - data);
        for (; at; found++) {
            at += marker->length;
            uint64_t number = number_at(c, &at, end);
            c->role == PUBLISHER ? on_answer(c, number) : on_event(c, number);
            at = memmem(at, (size_t)(end - at), marker->data, marker->length);
        }
    }
    if (is_ping(c, data, length)) {
        load.pings++;
        conn_say(c, &p->pong, 0, 0);
    }
    if (found)
        return;
    if (c->state == STEPS && p->steps[c->step].expect && holds(data, length, &p->steps[c->step].marker)) {
        c->step++;
        conn_advance(c);
    } else if (c->state == JOINING && holds(data, length, &p->joined)) {
        c->join += c->role == RECEIVER ? load.plan.receivers : 1;
        conn_advance(c);
    } else if (c->state == READY && holds(data, length, &p->lost)) {
        load.announced_losses++;
        c->excused = true;
    }
}
