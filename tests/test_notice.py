"""A notice that one machine hears ends all, amid rollouts of unequally many turns."""

import http.server
import pathlib
import re
import threading
import time

import pytest
from families import until

from hiper_jax.experiments.bench.kills import Family
from hiper_jax.experiments.join import noticed


def test_a_notice_to_one_process_ends_both_amid_a_rollout(tmp_path):
    script = str(pathlib.Path(__file__).with_name("notice_run.py"))
    file = tmp_path / "notice"
    family = Family([str(file)], 2, 1, program=lambda index: [script])
    until(family, lambda: all("playing" in said for said in family.lines), 100)
    time.sleep(1)
    (tmp_path / "notice-1").touch()
    told = time.monotonic()
    assert family.wait(60) == [143, 143], family.lines
    assert time.monotonic() - told < 20
    ends = [
        re.findall(r"together (\w+) after (\d+)", said[-1]) for said in family.lines
    ]
    assert [end[0][0] for end in ends] == ["True", "True"], family.lines
    assert int(ends[0][0][1]) > int(ends[1][0][1]) > 0
    assert any("process 1" in s and "taken away" in s for s in family.lines[1])


@pytest.mark.parametrize(
    "code, text, heard",
    [
        (200, "TRUE", True),
        (200, "TERMINATE_ON_HOST_MAINTENANCE\n", True),
        (200, '{"action": "terminate"}', True),
        (200, "FALSE", False),
        (200, "NONE\n", False),
        (200, "", False),
        (404, "not found", False),
    ],
)
def test_an_address_is_heard_where_it_says_something(code, text, heard):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.headers["Metadata-Flavor"] == "Google"
            self.send_response(code if known else 403)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format, *args):
            pass

    with http.server.HTTPServer(("localhost", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        assert noticed(f"http://localhost:{server.server_port}/preempted") is heard
        server.shutdown()
    assert not noticed(f"http://localhost:{server.server_port}/preempted")


def test_a_file_is_heard_once_it_is_there(tmp_path):
    assert not noticed(str(tmp_path / "leave"))
    (tmp_path / "leave").touch()
    assert noticed(str(tmp_path / "leave"))
