/* websocket_offer: the client's half of the WebSocket handshake (RFC 6455 4.2.1): whether a request that names `websocket` in
 * its Upgrade field is one that could be accepted. */
#pragma once

#include <stdbool.h>

struct request;

enum websocket_offer { WEBSOCKET_OFFER_VALID, WEBSOCKET_OFFER_BAD, WEBSOCKET_OFFER_BAD_VERSION };

/* `named`: the Connection field names `upgrade`. The fields are tidied. */
enum websocket_offer websocket_offer_check(const struct request *request, bool named);
