import pytest

from tune_ddvae.tuning.addresses import without_password


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000/x", "http://me:***@host:5000/x"),
        ("postgresql+psycopg2://me:se/cr@et@host/db", "postgresql+psycopg2://me:***@host/db"),
        ("at http://u:p@h and mysql://u:p@h/d", "at http://u:***@h and mysql://u:***@h/d"),
        ("mysql://h/d?user=me&password=secret&x=1", "mysql://h/d?user=me&password=***&x=1"),
        ("https://host:80/a@b", "https://host:80/a@b"),
        ("sqlite:////tmp/a:b@c/mlflow.db", "sqlite:////tmp/a:b@c/mlflow.db"),
    ],
)
def test_passwords_are_never_shown(text, shown):
    assert without_password(text) == shown
