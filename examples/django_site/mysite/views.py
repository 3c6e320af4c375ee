import hashlib
import itertools
import json

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

BLOCK = bytes(range(256)) * 256  # 64 KiB


def index(request: HttpRequest) -> HttpResponse:
    kind = "ASGI" if isinstance(request, ASGIRequest) else "WSGI"
    return HttpResponse(f"Hello from Django ({kind})\n", content_type="text/plain")


async def greet(request: HttpRequest, name: str) -> HttpResponse:
    times = request.GET.get("times", "1")
    if not times.isdigit():
        return HttpResponseBadRequest("times must be a number")
    return JsonResponse({"hello": name, "times": int(times)})


@csrf_exempt
@require_POST
def echo(request: HttpRequest) -> HttpResponse:
    return JsonResponse(json.loads(request.body), safe=False)


def visits(request: HttpRequest) -> HttpResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse({"visits": request.session["visits"]})


@csrf_exempt
@require_POST
def upload(request: HttpRequest) -> HttpResponse:
    file = request.FILES["file"]
    digest = hashlib.sha256()
    for chunk in file.chunks():
        digest.update(chunk)
    note = request.POST.get("note")
    return JsonResponse({"name": file.name, "note": note, "size": file.size, "sha256": digest.hexdigest()})


def download(request: HttpRequest, mib: int) -> StreamingHttpResponse:
    """Django wants the iterator of the side that serves it, and would first collect the other kind whole."""

    async def blocks():
        for _ in range(mib * 16):
            yield BLOCK

    body = blocks() if isinstance(request, ASGIRequest) else itertools.repeat(BLOCK, mib * 16)
    return StreamingHttpResponse(body, content_type="application/octet-stream")


def error(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("on purpose")
