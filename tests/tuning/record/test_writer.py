import threading
import time

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, event, select
from sqlalchemy.exc import IntegrityError

from tune_ddvae.tuning.record import writer as writer_module
from tune_ddvae.tuning.record.writer import Writer

ITEMS = Table(
    "items",
    MetaData(),
    Column("place", Integer, primary_key=True),
    Column("word", String, nullable=False, unique=True),
)


@pytest.fixture
def engine(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'items.db'}")
    ITEMS.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def writer(engine):
    writer = Writer(engine)
    yield writer
    writer.close()


@pytest.fixture
def commits(engine):
    seen: list[float] = []
    event.listen(engine, "commit", lambda _: seen.append(time.monotonic()))
    return seen


def words(engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(select(ITEMS.c.word).order_by(ITEMS.c.place)).scalars())


def put_words(writer, *texts: str) -> None:
    for text in texts:
        writer.put(ITEMS.insert(), {"word": text})


def broken(writer) -> IntegrityError:
    put_words(writer, "same", "same")
    with pytest.raises(IntegrityError) as caught:
        writer.flush()
    return caught.value


def test_entries_are_written_in_the_order_they_were_put(engine, writer):
    expected = [f"word {n}" for n in range(500)]
    put_words(writer, *expected)
    writer.flush()
    assert words(engine) == expected


def test_many_entries_share_a_transaction(engine, writer, commits):
    put_words(writer, *(str(n) for n in range(300)))
    writer.flush()
    assert len(words(engine)) == 300
    assert len(commits) <= 3


def test_an_entry_becomes_durable_without_anyone_waiting_for_it(engine, writer):
    put_words(writer, "alone")
    until = time.monotonic() + 10
    while not words(engine):
        assert time.monotonic() < until
        time.sleep(0.01)  # the database is what is awaited; it has no event to wait on
    assert words(engine) == ["alone"]


def test_flush_waits_for_no_batch_to_gather(engine, writer, monkeypatch):
    monkeypatch.setattr(writer_module, "BATCH_S", 3600.0)
    for n in range(30):
        put_words(writer, str(n))
        writer.flush()
        assert len(words(engine)) == n + 1


def test_what_comes_after_an_entry_finds_it_written(engine, writer):
    seen = []
    writer.put(ITEMS.insert(), {"word": "first"}, after=lambda: seen.append(words(engine)))
    writer.flush()
    assert seen == [["first"]]


def test_nothing_is_lost_at_close(engine):
    writer = Writer(engine)
    put_words(writer, *(str(n) for n in range(2000)))
    writer.close()
    assert words(engine) == [str(n) for n in range(2000)]


def test_closing_waits_for_no_batch_to_gather(engine, monkeypatch):
    monkeypatch.setattr(writer_module, "BATCH_S", 3600.0)
    writer = Writer(engine)
    put_words(writer, "last")
    writer.close()
    assert words(engine) == ["last"]


def test_several_threads_lose_nothing_and_keep_their_own_order(engine, writer):
    def put_all(name: str) -> None:
        put_words(writer, *(f"{name} {n}" for n in range(200)))

    threads = [threading.Thread(target=put_all, args=[name]) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.flush()
    found = words(engine)
    for name in "abc":
        assert [w for w in found if w[0] == name] == [f"{name} {n}" for n in range(200)]


def test_an_error_is_kept_and_raised_as_it_is_wherever_the_tuning_loop_looks(writer):
    error = broken(writer)
    for look in (lambda: put_words(writer, "x"), writer.flush, writer.check, writer.check):
        with pytest.raises(IntegrityError) as caught:
            look()
        assert caught.value is error


def test_a_failed_batch_leaves_nothing_of_itself(engine, writer):
    put_words(writer, "before")
    writer.flush()
    broken(writer)
    assert words(engine) == ["before"]


def test_what_comes_after_an_entry_is_left_out_when_the_write_fails(engine, writer):
    seen = []
    writer.put(ITEMS.insert(), {"word": None}, after=lambda: seen.append("written"))
    with pytest.raises(IntegrityError):
        writer.flush()
    assert seen == []


def test_a_closed_writer_does_not_pretend_to_have_flushed(engine):
    writer = Writer(engine)
    writer.close()
    with pytest.raises(RuntimeError, match="ended before its queue was empty"):
        writer.flush()
