/* One client connection: its socket, what waits to be written, the frames that come in. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"
#include "ws.h"

#define READ_SIZE (256u << 10)
#define MAX_HEAD 16384
#define MAX_MESSAGE (1u << 20)
#define MAX_UNSENT (64u << 20)
#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

static uint8_t incoming[WS_MAX_PAYLOAD + READ_SIZE];
static uint8_t scratch[WS_MAX_HEADER + MAX_MESSAGE];
static struct connection **dirty;
static size_t dirty_count, dirty_size;

const char *conn_name(const struct connection *c)
{
    static char name[64];
    static const char *const roles[] = {"receiver", "deaf receiver", "publisher"};
    snprintf(name, sizeof name, "%s %u", roles[c->role], c->index);
    return name;
}

static void *grown(void *memory, size_t size)
{
    void *bigger = realloc(memory, size);
    if (!bigger)
        fail("out of memory");
    return bigger;
}

static void queue(struct connection *c, const uint8_t *data, size_t length)
{
    if (c->out_length + length > c->out_size) {
        if (c->out_length + length > MAX_UNSENT)
            fail("%s: the server does not read, %u bytes wait", conn_name(c), c->out_length);
        c->out_size = c->out_size ? c->out_size : 512;
        while (c->out_size < c->out_length + length)
            c->out_size *= 2;
        c->out = grown(c->out, c->out_size);
    }
    memcpy(c->out + c->out_length, data, length);
    c->out_length += (uint32_t)length;
    if (!c->dirty) {
        if (dirty_count == dirty_size)
            dirty = grown(dirty, (dirty_size = dirty_size ? 2 * dirty_size : 1024) * sizeof *dirty);
        dirty[dirty_count++] = c;
        c->dirty = true;
    }
}

static void queue_frame(struct connection *c, uint8_t opcode, size_t length)
{
    uint8_t *payload = scratch + WS_MAX_HEADER;
    uint8_t *frame = ws_seal(opcode, payload, length);
    queue(c, frame, (size_t)(payload - frame) + length);
}

void conn_say(struct connection *c, const struct template *what, uint64_t number, uint32_t room)
{
    const struct profile *p = c->profile;
    size_t length = template_render(what, &load.plan, p->opcode == WS_BINARY, scratch + WS_MAX_HEADER,
                                    MAX_MESSAGE, number, room, c->client);
    queue_frame(c, p->opcode, length);
}

static void watch(struct connection *c, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(load.epoll, operation, c->fd, &event))
        fail("epoll_ctl: %s", strerror(errno));
}

void conn_ignore(struct connection *c) { watch(c, EPOLL_CTL_DEL, 0); }

/* The outcome of a non-blocking connect(). */
static void connected(struct connection *c)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        fail("%s: refused: %s", conn_name(c), strerror(error));
    c->state = HEAD;
    secure_begin(c);
    size_t length = template_render(&c->profile->head, &load.plan, false, scratch, MAX_MESSAGE, 0, 0, c->client);
    queue(c, scratch, length);
}

void conn_ready_to_write(struct connection *c)
{
    if (c->state == CONNECTING)
        connected(c);
    conn_flush(c);
}

void conn_flush(struct connection *c)
{
    c->dirty = false;
    if (c->state == CONNECTING)
        return;
    ssize_t sent = !c->out_length ? 0
                   : c->tls       ? secure_send(c, c->out, c->out_length)
                                  : send(c->fd, c->out, c->out_length, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        fail("%s: cannot send: %s", conn_name(c), strerror(errno));
    if (sent > 0) {
        c->out_length -= (uint32_t)sent;
        memmove(c->out, c->out + sent, c->out_length);
    }
    bool wants = c->out_length > 0 && !c->hears_first;
    if (wants != c->watching_writes) {
        c->watching_writes = wants;
        watch(c, EPOLL_CTL_MOD, wants ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
}

void conn_flush_dirty(void)
{
    for (size_t i = 0; i < dirty_count; i++)
        conn_flush(dirty[i]);
    dirty_count = 0;
}

void conn_open(struct connection *c, enum role role, uint32_t index, uint32_t client)
{
    uint16_t port = role == PUBLISHER ? load.plan.publisher_port : load.plan.port;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)}, from = {.sin_family = AF_INET};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + client % load.plan.sources);
    int yes = 1, small = (int)load.plan.deaf_buffer;
    *c = (struct connection){.role = role, .index = index, .client = client, .state = CONNECTING};
    c->profile = role == PUBLISHER ? &load.plan.publisher : &load.plan.receiver[index % load.plan.receiver_profiles];
    c->join = role == RECEIVER ? index : 0;
    c->opened = load.now = clock_now();
    if (role == PUBLISHER) {
        c->exchange = grown(NULL, sizeof *c->exchange);
        *c->exchange = (struct exchange){.oldest = 1, .next = 1};
    }
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fail("%s: socket: %s", conn_name(c), strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    if (role == DEAF)
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from))
        fail("%s: bind: %s", conn_name(c), strerror(errno));
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)
        fail("%s: refused: %s", conn_name(c), strerror(errno));
    c->watching_writes = true;
    watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
    load.opening++;
}

static void on_frame(struct connection *c, const struct ws_frame *frame)
{
    if (frame->opcode == WS_TEXT || frame->opcode == WS_BINARY) {
        conn_message(c, frame->payload, frame->length);
    } else if (frame->opcode == WS_PING && frame->length < 126) {
        load.pings++;
        memcpy(scratch + WS_MAX_HEADER, frame->payload, frame->length);
        queue_frame(c, WS_PONG, frame->length);
    } else if (frame->opcode == WS_CLOSE) {
        unsigned code = frame->length >= 2 ? (unsigned)frame->payload[0] << 8 | frame->payload[1] : 1005;
        int length = frame->length > 2 ? (int)frame->length - 2 : 0;
        fail("%s: closed by the server: %u %.*s", conn_name(c), code, length, frame->payload + (length ? 2 : 0));
    } else if (frame->opcode != WS_PONG) {
        fail("%s: a frame with opcode %u", conn_name(c), frame->opcode);
    }
}

/* Takes the response head; returns its length, 0 when more is needed. */
static size_t take_head(struct connection *c, const uint8_t *data, size_t length)
{
    const uint8_t *end = memmem(data, length, "\r\n\r\n", 4);
    if (!end) {
        if (length > MAX_HEAD)
            fail("%s: a response head without an end", conn_name(c));
        return 0;
    }
    size_t size = (size_t)(end - data) + 4;
    if (size < 12 || memcmp(data, "HTTP/1.1 101", 12))
        fail("%s: refused: %.*s", conn_name(c), (int)(length < 400 ? length : 400), data);
    if (!memmem(data, size, WS_ACCEPT, strlen(WS_ACCEPT)))
        fail("%s: a wrong Sec-WebSocket-Accept", conn_name(c));
    if (memmem(data, size, "permessage-deflate", 18))
        fail("%s: compression was not asked for", conn_name(c));
    c->state = STEPS;
    conn_advance(c);
    return size;
}

static void read_some(struct connection *c)
{
    if (c->in_length)
        memcpy(incoming, c->in, c->in_length);
    uint8_t *to = incoming + c->in_length;
    ssize_t got = c->tls ? secure_recv(c, to, READ_SIZE) : recv(c->fd, to, READ_SIZE, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        fail("%s: connection lost: %s", conn_name(c), got ? strerror(errno) : "end of stream without a Close frame");
    load.now = clock_now();
    size_t have = c->in_length + (size_t)got, at = 0;
    if (c->state == HEAD)
        at = take_head(c, incoming, have);
    while (c->state > HEAD && at < have) {
        struct ws_frame frame;
        const char *why = NULL;
        long took = ws_cut(incoming + at, have - at, &frame, &why);
        if (took < 0)
            fail("%s: the server sent %s", conn_name(c), why);
        if (!took)
            break;
        at += (size_t)took;
        on_frame(c, &frame);
    }
    c->in_length = (uint32_t)(have - at);
    if (c->in_length > c->in_size)
        c->in = grown(c->in, c->in_size = c->in_length);
    if (c->in_length)
        memcpy(c->in, incoming + at, c->in_length);
}

void conn_ready_to_read(struct connection *c)
{
    do
        read_some(c);
    while (c->more);
    if (c->hears_first) {
        c->hears_first = false;
        conn_flush(c);
    }
}
