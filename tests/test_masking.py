"""A password is shown nowhere and kept nowhere: in URLs, drivers' words, stored settings."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest

from pdsearch import search
from pdsearch.cli import main
from pdsearch.masking import mask
from pdsearch.study import load_study_file, open_study
from pdsearch.study.url import parse_url, shown_url, struck

SECRET = "s3cr3t"
URLS = [
    "postgresql+psycopg://me:{}@db.example:5432/studies",
    "postgresql+psycopg://me:{}@db.example/studies?sslmode=require",
    "postgresql+psycopg://db.example/studies?user=me&password={}",
    "postgresql+psycopg://me@db.example/studies?password={}&connect_timeout=3",
    "postgresql+psycopg:///studies?host=/run/postgresql&sslpassword={}",
    "postgresql://me:{0}@db/studies?password={0}&sslpassword={0}",
    "mysql+pymysql://me@db/studies?passwd={}",
    "mysql+pymysql://me@db/studies?ssl_key_pass={}",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3D%7BX%7D%3BUID%3Dme%3BPWD%3D{}",
    "sqlite+pysqlcipher://:{}@/studies.db",
    "snowflake://me@account/db?private_key_passphrase={}&token={}",
    "no such thing://me:{}@host/db",
    "nonsense?password={}",
    "postgresql+psycopg://me:{}@ho st/db",
]
PASSWORDS = [SECRET, "p@ss{}/:", "50%off", "a b", "ünï", "%41bc%40"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("url", URLS)
def test_no_url_is_shown_with_its_password(url: str, password: str) -> None:
    from urllib.parse import quote

    in_query = "={}" in url or "%3D{}" in url or "{0}" in url
    written = quote(password, safe="") if in_query else password
    whole = url.replace("{0}", written).replace("{}", written)
    shown = shown_url(whole)
    for secret in {password, written, quote(password, safe="")}:
        assert secret not in shown.replace("***", "")
        # What a driver repeats of it, in whichever form.
        said = f'connection to "db" failed for "{secret}" with {whole}, password={secret}'
        assert secret not in struck(said, whole)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///pdsearch.db",
        "sqlite:////tmp/a@b.db",
        "postgresql+psycopg://me@db/studies?passfile=/home/me/.pgpass&sslkey=/home/me/key",
        "postgresql+psycopg:///studies?host=/run/postgresql&connect_timeout=3",
    ],
)
def test_what_holds_no_secret_is_shown_whole(url: str) -> None:
    assert parse_url(shown_url(url)) == parse_url(url)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("see postgresql://me:pw@h/d, or", "see postgresql://me:***@h/d, or"),
        ("postgresql://me:p@w@h/d?password=x", "postgresql://me:***@h/d?password=***"),
        ("a?PGPASSWORD=x;b=1&Password='a b'", "a?PGPASSWORD=***;b=1&Password=***"),
        ("('token=abc')", "('token=***')"),
        ("passfile=/x sslkey=/y key_path=/z", "passfile=/x sslkey=/y key_path=/z"),
        ("http://127.0.0.1:8080/ (Ctrl-C ends it)", "http://127.0.0.1:8080/ (Ctrl-C ends it)"),
        ("study.trials: must be ≥ 1, got 0", "study.trials: must be ≥ 1, got 0"),
        ("resnet18@cifar100, folder:a@b", "resnet18@cifar100, folder:a@b"),
        ("a password may hold anything: see docs", "a password may hold anything: see docs"),
    ],
)
def test_in_any_text(text: str, masked: str) -> None:
    assert mask(text) == masked


def train(candidate: Any) -> float:
    return 0.5


MILD = {"formula": "Piecewise((1, x > 0), (a, True))", "space": {"a": [0.1, 0.3]}, "name": "mild"}
KEYS: dict[str, Any] = {"families": [MILD], "references": [], "train": train, "progress": False}


def everything_in(file: Path) -> str:
    with closing(sqlite3.connect(file)) as database:
        return "\n".join(database.iterdump())


def test_a_study_keeps_no_url(workdir: Path) -> None:
    url = f"sqlite:///study.db?password={SECRET}"
    search(**KEYS, storage="sqlite:///study.db", trials=2)
    text = everything_in(workdir / "study.db")
    assert "pdsearch:settings" in text and "sqlite:" not in text
    stored = open_study("pdsearch", storage="sqlite:///study.db")
    assert stored.settings.study.storage == stored.storage == "sqlite:///study.db"
    assert SECRET not in shown_url(url)


def test_what_earlier_versions_kept_is_read_and_cleaned_when_written(workdir: Path) -> None:
    search(**KEYS, storage="sqlite:///study.db", trials=2)
    study = optuna.load_study(study_name="pdsearch", storage="sqlite:///study.db")
    settings = study.user_attrs["pdsearch:settings"]
    settings["study"]["storage"] = f"postgresql://me:{SECRET}@host/db"
    study.set_user_attr("pdsearch:settings", settings)
    assert len(open_study("pdsearch", storage="sqlite:///study.db").trials()) == 2  # a reader
    assert SECRET in everything_in(workdir / "study.db")
    search(**KEYS, storage="sqlite:///study.db", trials=3)
    assert SECRET not in everything_in(workdir / "study.db")
    kept = study.user_attrs["pdsearch:settings"]
    assert json.dumps(settings["trial"]) == json.dumps(kept["trial"])


WORDS = [
    ["status", "s", "--storage", "{}"],
    ["status", "s", "--storag", "{}"],
    ["status", "{}"],
    ["report", "s", "--storage", "{}", "-o", "r.html"],
    ["confirm", "s", "--storage", "{}"],
    ["worker", "{}"],
    ["doctor", "{}"],
    ["doctor", "--storage", "{}"],
    ["doctor", "--storage", "{}", "--json"],
    ["search", "{}"],
    ["search", "s.toml", "--storage", "{}"],
    ["search", "s.toml", "--set", "study.storage={}"],
    ["search", "s.toml", "--set", "study.storag={}"],
    ["search", "s.toml", "--set", 'study.storage=["{}"]'],
    ["dashboard", "s", "--storage", "{}"],
    ["export", "{}", "-o", "g.py"],
    ["check", "{}"],
]


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://me:{SECRET}@127.0.0.1:9/db",
        f"postgresql+psycopg://127.0.0.1:9/db?user=me&password={SECRET}",
    ],
)
@pytest.mark.parametrize("words", WORDS, ids=lambda words: " ".join(words))
def test_no_command_shows_it(
    workdir: Path, words: list[str], url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psycopg")
    (workdir / "s.toml").write_text('[study]\nname = "s"\nfamilies = ["leaky"]\n')
    main([word.replace("{}", url) for word in words])
    seen = capfd.readouterr()
    assert SECRET not in seen.out + seen.err


def test_a_traceback_shows_none(workdir: Path) -> None:
    code = (
        "import sys; from pdsearch.cli import families, main\n"
        f"def bug(arguments): raise KeyError('postgresql://me:{SECRET}@h/d?password={SECRET}')\n"
        "families.run = bug\nsys.exit(main(['families']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = done.stderr.replace(code.splitlines()[1], "")
    assert done.returncode == 70 and SECRET not in said and "me:***@h/d" in said


def test_a_study_files_problems_show_none(workdir: Path) -> None:
    (workdir / "s.toml").write_text(
        f'[study]\nname = "s"\nfamilies = ["leaky"]\nstorage = "postgresql://me:{SECRET}@h/d"\n'
        f"seed = 'postgresql://me:{SECRET}@h/d'\n"
    )
    with pytest.raises(ValueError, match=r"study\.seed") as caught:
        load_study_file("s.toml")
    assert SECRET not in str(caught.value)
