"""What Ray Serve says, and what is made of it; the instance itself is in test_app.py and test_command.py."""

import pytest
from ray.serve.config import HTTPOptions

from raygen.errors import ConfigError, ModelError, ResourceError, StageError
from serve.instance import HA_PROXY, Instance, check_ha_proxy, check_instance, reason_of

HEAD = (
    "The deployment failed to start 3 times in a row. This may be due to a problem with its constructor or initial "
    "health check failing. See controller logs for details. Error:\n"
    "\x1b[36mray::ServeReplica:raygen:engine.initialize_and_get_metadata()\x1b[39m (pid=1, ip=10.0.0.1)\n"
    '  File "/a/b.py", line 456, in result\n    return self.__get_result()\n           ^^^^^^^^^^^^^^^^^^^\n'
    "RuntimeError: Traceback (most recent call last):\n"
    '  File "/a/loading.py", line 31, in load\n    raise ModelError(\n'
)


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        (HEAD + "raygen.errors.ModelError: model '/m' lacks unet/config.json", ModelError, "model '/m' lacks unet/con"),
        (HEAD + "raygen.errors.ModelError: two\nlines, of\n\tone error", ModelError, "two\nlines, of\n\tone error"),
        (HEAD + "raygen.errors.ResourceError: no GPU\x1b[0m", ResourceError, "no GPU"),
        (HEAD + "raygen.errors.RowError: not the user's", StageError, "RowError: not the user's"),
        (HEAD + "torch.OutOfMemoryError: CUDA out of memory", StageError, "OutOfMemoryError: CUDA out of memory"),
        ("RuntimeError: Failed to bind to address '::1:80'.", StageError, "RuntimeError: Failed to bind"),
        ("no traceback\n\nbut a last line", StageError, "but a last line"),
        ("", StageError, "Ray Serve does not say why"),
    ],
)
def test_the_reason_is_what_the_replica_raised(message: str, kind: type, text: str) -> None:
    error = reason_of(message, what="the model 'm'")
    assert type(error) is kind
    assert str(error).startswith(f"the model 'm' did not start: {text}")


def test_another_instance_is_joined_only_at_the_same_address() -> None:
    there = Instance(HTTPOptions(host="127.0.0.1", port=8000), {"theirs": "/t", "hidden": None})
    check_instance(there, "raygen", "127.0.0.1", 8000)
    with pytest.raises(ConfigError, match=r"at 127\.0\.0\.1:8000, with theirs, hidden, .* port 8000 instead of 9000"):
        check_instance(there, "raygen", "127.0.0.1", 9000)
    with pytest.raises(ConfigError, match="runs on this cluster already"):
        check_instance(there, "theirs", "127.0.0.1", 8000)
    slow = Instance(HTTPOptions(host="::1", port=8000, request_timeout_s=5, root_path="/r"), {})
    with pytest.raises(ConfigError, match=r"at \[::1\]:8000, .* root_path '/r' instead of '', request_timeout_s 5"):
        check_instance(slow, "raygen", "::1", 8000)
    taken = Instance(HTTPOptions(host="127.0.0.1", port=8000), {"theirs": "/"})
    with pytest.raises(ConfigError, match=r"'theirs' .* is reached under the path '/'"):
        check_instance(taken, "raygen", "127.0.0.1", 8000)


def test_ha_proxy_is_refused_where_it_cannot_reach_the_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HA_PROXY, raising=False)
    check_ha_proxy("::1")
    monkeypatch.setenv(HA_PROXY, "1")
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):
        check_ha_proxy(host)
    with pytest.raises(ConfigError, match=f"{HA_PROXY}=1: .* not on ::1"):
        check_ha_proxy("::1")
    monkeypatch.setattr("ray.serve._private.haproxy.RAY_SERVE_HAPROXY_BINARY_PATH", "/nowhere/haproxy")
    with pytest.raises(ConfigError, match=f"{HA_PROXY}=1, but there is no HAProxy: .*/nowhere/haproxy"):
        check_ha_proxy("127.0.0.1")
