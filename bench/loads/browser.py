"""The same answer to the request of a browser behind a proxy: 19 header fields, about 1.4 KB."""

from harness.figures import ahead_of_all
from harness.loads import Load, get

HEADERS = [
    "Connection: keep-alive",
    "Cache-Control: max-age=0",
    'sec-ch-ua: "Chromium";v="126", "Google Chrome";v="126", "Not-A.Brand";v="8"',
    "sec-ch-ua-mobile: ?0",
    'sec-ch-ua-platform: "Linux"',
    "Upgrade-Insecure-Requests: 1",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-User: ?1",
    "Sec-Fetch-Dest: document",
    "Referer: https://shop.example.com/catalogue/shoes?colour=blue&size=42&sort=price",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8,fr;q=0.7",
    "Cookie: sessionid=" + "k3v9" * 16 + "; csrftoken=" + "Zx81" * 8 + "; theme=dark; _ga=GA1.2.1318465923.1718000000",
    "X-Request-Id: 8e5e1f8c-7a3e-4d5b-9a52-4f1d3c1f6f00",
    "X-Trace: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
]

LOAD = Load(
    apps={"asgi": "hello_asgi:app", "wsgi": "hello_wsgi:app"},
    request=get("/catalogue/shoes/4711?colour=blue&size=42&sort=price", *HEADERS),
    yardstick={"asgi": [], "wsgi": []},
    goals={"asgi": ahead_of_all(), "wsgi": ahead_of_all()},
)
