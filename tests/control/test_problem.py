import json

from control.problem import problem
from core.errors import ConfigError


def test_a_problem_has_all_errors_and_what_else_is_told() -> None:
    error = ConfigError("request", 0, "listeners.web.port", "70000 is out of range", "give 1 to 65535")
    response = problem(422, "1 error", [error], headers={"X": "y"}, current_version=3)
    assert (response.status, response.content_type, response.headers["X"]) == (422, "application/problem+json", "y")
    assert json.loads(response.text or "") == {
        "title": "The configuration is not valid",
        "status": 422,
        "detail": "1 error",
        "current_version": 3,
        "errors": [
            {
                "object": "listeners.web.port",
                "line": 0,
                "why": "70000 is out of range",
                "suggestion": "give 1 to 65535",
                "text": "request: listeners.web.port: 70000 is out of range; give 1 to 65535",
            }
        ],
    }


def test_without_errors_there_is_no_list() -> None:
    assert json.loads(problem(418, "short and stout").text or "") == {
        "title": "Error",
        "status": 418,
        "detail": "short and stout",
    }
