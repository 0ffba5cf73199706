#define _GNU_SOURCE
#include "plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

#define MAX_LINE (2u << 20) /* a message of 1 MB in a template */
#define MAX_TOKENS 200000

static void *need(void *memory)
{
    if (!memory)
        fail("out of memory");
    return memory;
}

static void take(struct bytes *to, const uint8_t *data, size_t length)
{
    to->data = need(malloc(length + 1));
    memcpy(to->data, data, length);
    to->length = length;
}

/* Undoes \r \n \\ \xHH in place; returns the new length. */
static size_t unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from; from++) {
        if (*from != '\\') {
            *to++ = *from;
            continue;
        }
        unsigned value = 0;
        switch (*++from) {
        case 'r': *to++ = '\r'; break;
        case 'n': *to++ = '\n'; break;
        case '\\': *to++ = '\\'; break;
        case 'x':
            if (sscanf(from + 1, "%2x", &value) != 1 || !from[1] || !from[2])
                fail("plan: a bad \\x escape");
            *to++ = (char)value;
            from += 2;
            break;
        default: fail("plan: unknown escape \\%c", *from);
        }
    }
    return (size_t)(to - text);
}

static void template_read(struct template *t, const uint8_t *text, size_t length)
{
    size_t start = 0;
    t->count = 0;
    for (size_t i = 0; i <= length; i++) {
        bool variable = i + 1 < length && text[i] == '%';
        if (i < length && !variable)
            continue;
        if (t->count + 2 > MAX_PARTS)
            fail("plan: a text with too many variables");
        if (i > start) {
            t->parts[t->count].kind = PART_TEXT;
            take(&t->parts[t->count++].text, text + start, i - start);
        }
        if (!variable)
            break;
        enum part_kind kind = PART_TEXT;
        switch (text[++i]) {
        case 'n': kind = PART_NUMBER; break;
        case 'r': kind = PART_ROOM; break;
        case 'c': kind = PART_CLIENT; break;
        case 't': kind = PART_TOKEN; break;
        case '%': break;
        default: fail("plan: unknown variable %%%c", text[i]);
        }
        t->parts[t->count].kind = kind;
        if (kind == PART_TEXT)
            take(&t->parts[t->count].text, text + i, 1);
        t->count++;
        start = i + 1;
    }
}

static size_t cbor_unsigned(uint8_t *to, uint64_t value)
{
    int width = value < 24 ? 0 : value < 256 ? 1 : value < 65536 ? 2 : value < 1ull << 32 ? 4 : 8;
    static const uint8_t head[] = {[1] = 24, [2] = 25, [4] = 26, [8] = 27};
    to[0] = width ? head[width] : (uint8_t)value;
    for (int i = 0; i < width; i++)
        to[1 + i] = (uint8_t)(value >> (8 * (width - 1 - i)));
    return 1 + (size_t)width;
}

size_t template_render(const struct template *t, const struct plan *plan, bool binary, uint8_t *to,
                       size_t room_for, uint64_t number, uint32_t room, uint32_t client)
{
    size_t length = 0;
    for (int i = 0; i < t->count; i++) {
        const struct part *part = &t->parts[i];
        const char *token = "";
        size_t size = 24;
        if (part->kind == PART_TEXT)
            size = part->text.length;
        if (part->kind == PART_TOKEN && plan->token_count) {
            token = plan->tokens[client % plan->token_count];
            size = strlen(token) + 1;
        }
        if (length + size > room_for)
            fail("a message of more than %zu bytes", room_for);
        char *at = (char *)to + length;
        switch (part->kind) {
        case PART_TEXT: memcpy(at, part->text.data, size); length += size; break;
        case PART_ROOM: length += (size_t)sprintf(at, "%05u", room); break;
        case PART_CLIENT: length += (size_t)sprintf(at, "%05u", client); break;
        case PART_TOKEN: strcpy(at, token); length += strlen(token); break;
        case PART_NUMBER:
            length += binary ? cbor_unsigned(to + length, number)
                             : (size_t)sprintf(at, "%llu", (unsigned long long)number);
        }
    }
    return length;
}

static void tokens_read(struct plan *plan, const char *path)
{
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t size = 0;
    if (!file)
        fail("plan: cannot read the tokens: %s", strerror(errno));
    plan->tokens = need(calloc(MAX_TOKENS, sizeof *plan->tokens));
    while (plan->token_count < MAX_TOKENS && getline(&line, &size, file) > 0) {
        line[strcspn(line, "\r\n")] = 0;
        plan->tokens[plan->token_count++] = need(strdup(line));
    }
    free(line);
    fclose(file);
}

static bool profile_key(struct profile *p, const char *key, const uint8_t *value, size_t length)
{
    struct { const char *key; struct template *to; } texts[] = {
        {"head", &p->head}, {"join", &p->join}, {"publish", &p->publish}, {"pong", &p->pong},
    };
    struct { const char *key; struct bytes *to; } markers[] = {
        {"joined", &p->joined}, {"event", &p->event}, {"answer", &p->answer}, {"lost", &p->lost}, {"ping", &p->ping},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!strcmp(key, texts[i].key))
            return template_read(texts[i].to, value, length), true;
    for (size_t i = 0; i < sizeof markers / sizeof *markers; i++)
        if (!strcmp(key, markers[i].key))
            return take(markers[i].to, value, length), true;
    if (!strcmp(key, "opcode")) {
        p->opcode = length == 6 && !memcmp(value, "binary", 6) ? 2 : 1;
    } else if (!strcmp(key, "refusal") && p->refusal_count < MAX_REFUSALS) {
        take(&p->refusals[p->refusal_count++], value, length);
    } else if ((!strcmp(key, "send") || !strcmp(key, "expect")) && p->step_count < MAX_STEPS) {
        struct step *step = &p->steps[p->step_count++];
        step->expect = key[0] == 'e';
        if (step->expect)
            take(&step->marker, value, length);
        else
            template_read(&step->said, value, length);
    } else {
        return false;
    }
    return true;
}

static bool global_key(struct plan *plan, const char *key, const char *value)
{
    struct { const char *key; uint32_t *to, most; } numbers[] = {
        {"sources", &plan->sources, 250},       {"rooms", &plan->rooms, 100000},
        {"members", &plan->members, 100000},    {"receivers", &plan->receivers, 100000},
        {"deaf", &plan->deaf, 10000},           {"deaf_buffer", &plan->deaf_buffer, 1u << 24},
        {"publishers", &plan->publishers, 1000}, {"ordered", &plan->ordered, 1},
        {"tls", &plan->tls, 1},
    };
    if (!strcmp(key, "tokens"))
        return tokens_read(plan, value), true;
    unsigned long number = strtoul(value, NULL, 10);
    if (!strcmp(key, "port") && number > 0 && number < 65536)
        return plan->port = (uint16_t)number, true;
    if (!strcmp(key, "publisher_port") && number > 0 && number < 65536)
        return plan->publisher_port = (uint16_t)number, true;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!strcmp(key, numbers[i].key) && number <= numbers[i].most)
            return *numbers[i].to = (uint32_t)number, true;
    return false;
}

void plan_read(struct plan *plan, const char *path)
{
    static char line[MAX_LINE];
    struct profile *profile = NULL;
    FILE *file = fopen(path, "r");
    if (!file)
        fail("cannot read the plan: %s", strerror(errno));
    *plan = (struct plan){.sources = 1, .rooms = 1, .deaf_buffer = 4096, .ordered = 1};
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = 0;
        if (!*line || *line == '#')
            continue;
        if (!strcmp(line, "[receiver]") && plan->receiver_profiles < MAX_RECEIVER_PROFILES) {
            profile = &plan->receiver[plan->receiver_profiles++];
            profile->opcode = 1;
            continue;
        }
        if (!strcmp(line, "[publisher]")) {
            profile = &plan->publisher;
            profile->opcode = 1;
            continue;
        }
        char *value = strchr(line, ' ');
        if (!value)
            fail("plan: a line without a value: %.80s", line);
        *value++ = 0;
        size_t length = unescape(value);
        value[length] = 0;
        if (!(profile ? profile_key(profile, line, (uint8_t *)value, length) : global_key(plan, line, value)))
            fail("plan: unknown key or value out of range: %s", line);
    }
    fclose(file);
    if (!plan->port)
        fail("plan: no port");
    if (!plan->publisher_port)
        plan->publisher_port = plan->port;
    if (!plan->rooms || plan->members > plan->receivers)
        fail("plan: members above receivers, or no room");
    if (plan->tls && plan->deaf)
        fail("plan: the deaf do not speak TLS");
    if (plan->receivers && !plan->receiver_profiles)
        fail("plan: receivers without a [receiver] section");
    if (plan->publishers > 1 && plan->rooms % plan->publishers && plan->receivers)
        fail("plan: a room with several publishers has no order to check");
}
