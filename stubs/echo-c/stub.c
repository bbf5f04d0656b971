// A protocol stub without a protocol. It answers every request with its body, and posts every other
// message back to its sender.

#include <stdlib.h>
#include <string.h>

#include "protostub.h"

typedef rethink_protostub_types_message_t message;

static bool is(const protostub_string_t *text, const char *wanted) {
    return text->len == strlen(wanted) && memcmp(text->ptr, wanted, text->len) == 0;
}

static bool expects_response(const message *message) {
    switch (message->type.tag) {
    case RETHINK_PROTOSTUB_TYPES_MESSAGE_TYPE_CREATE:
    case RETHINK_PROTOSTUB_TYPES_MESSAGE_TYPE_READ:
    case RETHINK_PROTOSTUB_TYPES_MESSAGE_TYPE_DELETE:
    case RETHINK_PROTOSTUB_TYPES_MESSAGE_TYPE_SUBSCRIBE:
    case RETHINK_PROTOSTUB_TYPES_MESSAGE_TYPE_UNSUBSCRIBE:
    case RETHINK_PROTOSTUB_TYPES_MESSAGE_TYPE_EXECUTE:
        return true;
    case RETHINK_PROTOSTUB_TYPES_MESSAGE_TYPE_RESPONSE:
        return false;
    }
    for (size_t i = 0; i < message->headers.len; i++) {
        const protostub_tuple2_string_string_t *header = &message->headers.ptr[i];
        if (is(&header->f0, "expects-response") && is(&header->f1, "true")) return true;
    }
    return false;
}

// The echo shares its texts and its body with the message, whose owner frees them.
static message echo(const message *message) {
    rethink_protostub_types_message_t back = *message;
    back.from = message->to;
    back.to = message->from;
    back.via.len = 0;
    if (expects_response(message)) {
        back.type.tag = RETHINK_PROTOSTUB_TYPES_MESSAGE_TYPE_RESPONSE;
        back.headers.len = 0;
    }
    return back;
}

static void publish(rethink_protostub_presence_status_t status) {
    rethink_protostub_presence_error_t error;
    // The status is the stub's only report: a failure to publish it cannot be reported.
    if (!rethink_protostub_presence_publish(status, NULL, &error)) rethink_protostub_presence_error_free(&error);
}

static void post(message *messages, size_t count) {
    rethink_protostub_bus_list_message_t list = { messages, count };
    rethink_protostub_bus_list_result_void_error_t outcomes;
    rethink_protostub_bus_post(&list, &outcomes);
    rethink_protostub_bus_list_result_void_error_free(&outcomes);
}

// The stub needs no preparation. To refuse the deployment, call
// `protostub_string_dup(error, "why, and what to do")`, and return false.
bool exports_rethink_protostub_stub_start(exports_rethink_protostub_stub_address_t *url, protostub_string_t *error) {
    (void)error;
    exports_rethink_protostub_stub_address_free(url);
    return true;
}

void exports_rethink_protostub_stub_handle(exports_rethink_protostub_stub_list_event_t *events) {
    message *echoes = calloc(events->len, sizeof *echoes);
    if (echoes == NULL) abort();
    size_t count = 0;
    for (size_t i = 0; i < events->len; i++) {
        const exports_rethink_protostub_stub_event_t *event = &events->ptr[i];
        switch (event->tag) {
        case RETHINK_PROTOSTUB_TYPES_EVENT_CONNECT:
            publish(RETHINK_PROTOSTUB_PRESENCE_STATUS_IN_PROGRESS);
            publish(RETHINK_PROTOSTUB_PRESENCE_STATUS_LIVE);
            break;
        case RETHINK_PROTOSTUB_TYPES_EVENT_DISCONNECT:
            publish(RETHINK_PROTOSTUB_PRESENCE_STATUS_DISCONNECTED);
            break;
        case RETHINK_PROTOSTUB_TYPES_EVENT_MESSAGE:
            echoes[count++] = echo(&event->val.message);
            break;
        }
    }
    if (count > 0) post(echoes, count);
    free(echoes);
    exports_rethink_protostub_stub_list_event_free(events);
}
