/* The connection: order, keep-alive, pipelining, ends, time limits, drain. */
#include "check.h"
#include "http_fixture.h"

static void answers_and_keeps_the_connection(void)
{
    fixture_open();
    fixture_say("GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n");
    CHECK(fixture_starts("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 9\r\ndate: "));
    CHECK(strstr(fixture_got(), " GMT\r\nserver: licorne\r\n\r\nGET /a?b ") != NULL);
    fixture_say("POST /c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    CHECK(strstr(fixture_got(), "POST /c hello") != NULL);
    CHECK_INT(fx.requests, 2);
    CHECK(!fx.closed);
    fixture_close();
}

CHECK_MAIN(TEST(answers_and_keeps_the_connection))
