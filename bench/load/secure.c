/* TLS of a client, for plans that say `tls 1`. Only compiled in when it is wanted, so that all other
 * benchmarks do without OpenSSL's headers. Certificates are not checked: what a server does is measured. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>

#include "load.h"

#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>

static SSL_CTX *context;

void secure_prepare(void)
{
    if (!load.plan.tls)
        return;
    signal(SIGPIPE, SIG_IGN); /* OpenSSL cannot be told MSG_NOSIGNAL */
    if (!(context = SSL_CTX_new(TLS_client_method())) || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION))
        fail("tls: no context");
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_read_ahead(context, 1);
}

void secure_begin(struct connection *c)
{
    if (!context)
        return;
    if (!(c->tls = SSL_new(context)) || !SSL_set_fd(c->tls, c->fd))
        fail("%s: tls: no session", conn_name(c));
    SSL_set_connect_state(c->tls);
}

/* What recv() or send() would have returned. */
static ssize_t outcome(struct connection *c, int result)
{
    int error = result > 0 ? SSL_ERROR_NONE : SSL_get_error(c->tls, result);
    if (error == SSL_ERROR_NONE || error == SSL_ERROR_ZERO_RETURN)
        return result > 0 ? result : 0;
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
        errno = EAGAIN;
    else if (error == SSL_ERROR_SSL)
        fail("%s: tls: %s", conn_name(c), ERR_reason_error_string(ERR_get_error()));
    else if (!errno)
        return 0;
    return -1;
}

ssize_t secure_send(struct connection *c, const uint8_t *data, size_t length)
{
    errno = 0;
    ERR_clear_error();
    ssize_t sent = outcome(c, SSL_write(c->tls, data, (int)length));
    c->hears_first = sent < 0 && SSL_want_read((SSL *)c->tls);
    return sent;
}

/* Several records, as far as there is room; `c->more` tells that some may be left. */
ssize_t secure_recv(struct connection *c, uint8_t *data, size_t room)
{
    size_t got = 0;
    while (got < room) {
        errno = 0;
        ERR_clear_error();
        ssize_t piece = outcome(c, SSL_read(c->tls, data + got, (int)(room - got)));
        if (piece <= 0) {
            c->more = false;
            return got ? (ssize_t)got : piece;
        }
        got += (size_t)piece;
    }
    c->more = true;
    return (ssize_t)got;
}

#else

void secure_prepare(void)
{
    if (load.plan.tls)
        fail("compiled without TLS");
}
void secure_begin(struct connection *c) { (void)c; }
ssize_t secure_send(struct connection *c, const uint8_t *data, size_t length)
{
    (void)data, (void)length;
    fail("%s: compiled without TLS", conn_name(c));
}
ssize_t secure_recv(struct connection *c, uint8_t *data, size_t room)
{
    (void)data, (void)room;
    fail("%s: compiled without TLS", conn_name(c));
}

#endif
