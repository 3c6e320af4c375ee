"""What applications answer, and what the loads expect of them."""

import json

ITEMS = [{"id": number, "name": f"item {number}", "price": number / 4} for number in range(21_500)]
JSON_1MB = json.dumps(ITEMS).encode()
EVENT = b"data: the time is now\n\n"
PIECE, PIECES = b"x" * 1024, 64


def text_of(size):
    line = b"the same line of text again and again, numbered: %010d\n"
    return b"".join(line % number for number in range(size // 60 + 1))[:size]
