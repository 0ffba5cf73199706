/* The client's half of RFC 6455 that a load generator needs: cutting the server's
 * frames out of a buffer and building masked ones. Everything is bounded by the
 * buffers of the caller; nothing here allocates. */
#ifndef WS_H
#define WS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* All connections use the sample key of RFC 6455, section 1.3, so that its answer is
 * a constant and the handshake is still checked. */
#define WS_ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

#define WS_TEXT 0x1
#define WS_BINARY 0x2
#define WS_CLOSE 0x8
#define WS_PING 0x9
#define WS_PONG 0xA
#define WS_MAX_HEADER 14
#define WS_MAX_PAYLOAD (16u << 20)

struct ws_frame {
    uint8_t opcode;
    const uint8_t *payload;
    size_t length;
};

/* Cuts one whole frame; returns the bytes it took, 0 when more are needed, or -1 with
 * the reason in *why: a server under test that sends such a frame is at fault. */
static inline long ws_cut(const uint8_t *at, size_t have, struct ws_frame *frame, const char **why)
{
    if (have < 2)
        return 0;
    if (at[0] & 0x70) {
        *why = "a frame with reserved bits (compression is off)";
        return -1;
    }
    if (!(at[0] & 0x80)) {
        *why = "a fragmented message";
        return -1;
    }
    if (at[1] & 0x80) {
        *why = "a masked frame";
        return -1;
    }
    size_t header = 2;
    uint64_t length = at[1] & 0x7f;
    if (length == 126) {
        if (have < 4)
            return 0;
        length = (uint64_t)at[2] << 8 | at[3];
        header = 4;
    } else if (length == 127) {
        if (have < 10)
            return 0;
        length = 0;
        for (int i = 2; i < 10; i++)
            length = length << 8 | at[i];
        header = 10;
    }
    if (length > WS_MAX_PAYLOAD) {
        *why = "a frame above 16 MiB";
        return -1;
    }
    if (have < header + length)
        return 0;
    frame->opcode = at[0] & 0x0f;
    frame->payload = at + header;
    frame->length = length;
    return (long)(header + length);
}

/* Writes the header of a masked frame and masks the payload in place behind it.
 * `to` has room for WS_MAX_HEADER bytes before `payload`; returns where the frame begins. */
static inline uint8_t *ws_seal(uint8_t opcode, uint8_t *payload, size_t length)
{
    static const uint8_t mask[8] = {0x5a, 0x0f, 0xc3, 0x96, 0x5a, 0x0f, 0xc3, 0x96};
    size_t header = length < 126 ? 6 : length < 65536 ? 8 : 14;
    uint8_t *frame = payload - header;
    frame[0] = 0x80 | opcode;
    if (length < 126) {
        frame[1] = 0x80 | (uint8_t)length;
    } else if (length < 65536) {
        frame[1] = 0x80 | 126;
        frame[2] = (uint8_t)(length >> 8);
        frame[3] = (uint8_t)length;
    } else {
        frame[1] = 0x80 | 127;
        for (int i = 0; i < 8; i++)
            frame[2 + i] = (uint8_t)((uint64_t)length >> (56 - 8 * i));
    }
    memcpy(payload - 4, mask, 4);
    size_t i = 0;
    for (; i + 8 <= length; i += 8) {
        uint64_t word, key;
        memcpy(&word, payload + i, 8);
        memcpy(&key, mask, 8);
        word ^= key;
        memcpy(payload + i, &word, 8);
    }
    for (; i < length; i++)
        payload[i] ^= mask[i & 3];
    return frame;
}

#endif
