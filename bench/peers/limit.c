/* The limit: what a fan-out costs when a server does nothing but send().
 *
 *   limit PORT [batch]
 *
 * Accepts WebSocket connections with a minimal upgrade (it knows the one sample key of RFC
 * 6455, which the load generator uses). A client whose message begins with {"join" becomes a
 * subscriber; any other message is framed once and sent with one send() to each subscriber.
 * With `batch`, the messages of one read go to each subscriber in one send().
 * A reader that is behind is waited for, at most 10 s. Loopback only. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_FILES 65536
#define READ_SIZE 65536
#define MAX_OUT (4u << 20)

static const char upgrade[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                              "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static const uint8_t joined[] = "\x81\x0a{\"joined\"}";
static int subscribers[MAX_FILES], subscriber_count;
static struct client { bool upgraded; size_t length; uint8_t *unread; } clients[MAX_FILES];
static uint8_t input[2 * READ_SIZE], output[MAX_OUT];
static size_t output_length;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void send_all(int fd, const uint8_t *data, size_t length)
{
    while (length) {
        ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            if (poll(&wait, 1, 10000) == 1)
                continue;
        }
        if (sent < 0)
            return; /* gone; its own read event closes it */
        data += sent;
        length -= (size_t)sent;
    }
}

static void flush(void)
{
    for (int i = 0; output_length && i < subscriber_count; i++)
        send_all(subscribers[i], output, output_length);
    output_length = 0;
}

static void forget(int fd)
{
    for (int i = 0; i < subscriber_count; i++)
        if (subscribers[i] == fd)
            subscribers[i--] = subscribers[--subscriber_count];
    free(clients[fd].unread);
    clients[fd] = (struct client){0};
    close(fd);
}

static void publish(const uint8_t *payload, size_t length)
{
    uint8_t *to = output + output_length;
    if (output_length + length + 4 > sizeof output)
        die("output");
    *to++ = 0x81;
    if (length < 126) {
        *to++ = (uint8_t)length;
    } else {
        *to++ = 126;
        *to++ = (uint8_t)(length >> 8);
        *to++ = (uint8_t)length;
    }
    memcpy(to, payload, length);
    output_length = (size_t)(to - output) + length;
}

/* One whole masked frame from the buffer: bytes taken, or 0. Closes on anything but data. */
static size_t take(int fd, uint8_t *at, size_t have, bool batch)
{
    if (have < 6)
        return 0;
    size_t length = at[1] & 0x7f, header = 6;
    if (length == 126) {
        if (have < 8)
            return 0;
        length = (size_t)at[2] << 8 | at[3];
        header = 8;
    }
    if (length == 127 || length > READ_SIZE - 8 || (at[0] & 0x0f) > 2) {
        forget(fd);
        return have;
    }
    if (have < header + length)
        return 0;
    uint8_t *payload = at + header;
    for (size_t i = 0; i < length; i++)
        payload[i] ^= at[header - 4 + (i & 3)];
    if (length > 7 && !memcmp(payload, "{\"join\"", 7)) {
        subscribers[subscriber_count++] = fd;
        send_all(fd, joined, sizeof joined - 1);
    } else {
        publish(payload, length);
        if (!batch)
            flush();
    }
    return header + length;
}

static void readable(int fd, bool batch)
{
    struct client *c = &clients[fd];
    memcpy(input, c->unread, c->length);
    ssize_t got = recv(fd, input + c->length, READ_SIZE, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0)
        return forget(fd);
    size_t have = c->length + (size_t)got, at = 0;
    if (!c->upgraded) {
        uint8_t *end = memmem(input, have, "\r\n\r\n", 4);
        at = end ? (size_t)(end - input) + 4 : 0;
        c->upgraded = end != NULL;
        if (end)
            send_all(fd, (const uint8_t *)upgrade, sizeof upgrade - 1);
    }
    for (size_t took = 1; c->upgraded && took && at < have; at += took)
        took = take(fd, input + at, have - at, batch);
    flush();
    c->length = have - at;
    if (c->length > READ_SIZE)
        return forget(fd);
    if (c->length && !c->unread && !(c->unread = malloc(READ_SIZE)))
        die("malloc");
    if (c->length)
        memcpy(c->unread, input + at, c->length);
}

int main(int count, char **arguments)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct rlimit files;
    int yes = 1;
    bool batch = count == 3 && !strcmp(arguments[2], "batch");
    if (count < 2)
        return fprintf(stderr, "usage: limit PORT [batch]\n"), 2;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    address.sin_port = htons((uint16_t)atoi(arguments[1]));
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096) || epoll < 0)
        die("listen");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd != listener) {
                readable(events[i].data.fd, batch);
                continue;
            }
            int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
            if (fd < 0)
                continue;
            if (fd >= MAX_FILES) {
                close(fd);
                continue;
            }
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
            event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
            epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
        }
    }
}
