"""What is sent is exactly one request, framed as it says."""

from __future__ import annotations

from benchmarks.messages import get, post


def test_a_request_without_a_body_ends_with_its_head() -> None:
    assert get("/orders/42", "T") == (
        b"GET /orders/42 HTTP/1.1\r\nHost: orders.localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        b"Authorization: Bearer T\r\n\r\n"
    )


def test_a_request_with_a_body_has_as_many_bytes_as_it_says() -> None:
    head, _, body = post("/orders", "T", 1000).partition(b"\r\n\r\n")
    assert head.endswith(b"\r\nContent-Length: 1000")
    assert body == b"x" * 1000
