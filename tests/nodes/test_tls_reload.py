"""Certificates and authorities change while nodes and clients run: no call fails of it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import shutil
import socket
import ssl
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from doors import door_of, need
from typer.testing import CliRunner

from exchange.client import Client, Purpose
from exchange.errors import NoIdentityError, TrustListError
from exchange.trust.profile import Profile
from exchange.v1 import recognition_service_pb2 as recognition
from nodes import cli
from nodes.identity import Identity, IdentityVerifier, Role, issue, make_authority, server_name
from nodes.issuing import authority_of, issue_into
from nodes.setup import Member, initialise
from nodes.tlsfiles import TlsFiles
from nodes.trial import TrialExchange

CHECK = Purpose.PURPOSE_ENTRY_CHECK
SICHUAN, GUANGDONG = "510000", "440000"
DAY = timedelta(days=1)
NODE = Identity(SICHUAN, Role.NODE, "node-1")
APP = "tianfujiankangtong"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # no settings


@pytest.fixture(scope="module")
def exchange(request, tmp_path_factory, invented, no_traces):
    door = door_of(request)
    need(door)
    trial = TrialExchange(
        tmp_path_factory.mktemp("tls"),
        (SICHUAN, GUANGDONG),
        issuers={SICHUAN: (invented.ISSUER_CREDIT_CODE,)},
    )
    with trial:
        trial.start(
            environment={
                "TONGXING_DOOR": door,
                "TONGXING_TRUST__POLL_SECONDS": "0.1",
                "TONGXING_IDENTITY__POLL_SECONDS": "0.1",
                "TONGXING_CONNECTIONS__AGE_SECONDS": "1",
                "TONGXING_CONNECTIONS__GRACE_SECONDS": "5",
            }
        )
        yield trial
    no_traces(trial)
    for province in trial.provinces:
        assert "Traceback" not in trial.log(province).read_text()


def home(exchange, province=SICHUAN):
    return exchange.directory / province


def serial(pem):
    return x509.load_pem_x509_certificate(pem).serial_number


def events(exchange, province, name):
    lines = exchange.log(province).read_text(encoding="utf-8").splitlines()
    found = (json.loads(line) for line in lines if line.startswith("{"))
    return [event for event in found if event["event"] == name]


def shown(exchange, province=SICHUAN, *, who="app", roots=b"", directory=None):
    """The serial number of the certificate that a node shows to a new connection."""
    place = directory or home(exchange, province)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(place / f"{who}.pem", place / f"{who}-key.pem")
    roots = roots or exchange.trust().profile(province).tls_ca.encode()
    context.load_verify_locations(cadata=roots.decode())
    host, port = exchange.addresses[province].split(":")
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=server_name(province)) as tls,
    ):
        tls.sendall(PREFACE)
        if not tls.recv(1):  # in TLS 1.3 a refused client hears of it only when it reads
            raise ConnectionError("refused")
        return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True)).serial_number


async def until(what, holds, seconds=15):
    end = asyncio.get_running_loop().time() + seconds
    while not (found := holds()):
        assert asyncio.get_running_loop().time() < end, what
        await asyncio.sleep(0.05)
    return found


async def until_shown(exchange, pem, province=SICHUAN):
    wanted = serial(pem)
    await until("the new certificate is shown", lambda: shown(exchange, province) == wanted)


async def until_followed(exchange):
    newest = exchange.trust().version

    def all_follow():
        return all(
            events(exchange, code, "trust.verified")[-1]["version"] == newest
            for code in exchange.provinces
        )

    await until(f"version {newest} is followed", all_follow)


def following(exchange, province, who):
    """A client that goes by its files and by the newest trust list."""
    newest = {"version": exchange.trust()}

    def trust():
        return newest["version"]

    client = Client.from_files(
        exchange.addresses[province],
        province=province,
        certificate=home(exchange, province) / f"{who}.pem",
        key=home(exchange, province) / f"{who}-key.pem",
        trust=trust,
    )
    return client, newest


@contextlib.asynccontextmanager
async def load(client, document):
    """Recognises somebody again and again; afterwards, every one of the calls must have passed."""
    stop = asyncio.Event()
    done = []

    async def ask():
        while not stop.is_set():
            decision = await client.recognize(document, CHECK)
            assert decision.outcome == recognition.OUTCOME_RECOGNIZED, decision.answers
            done.append(decision)

    workers = [asyncio.create_task(ask()) for _ in range(4)]

    async def more(count=20):
        """Wait until so many more calls have passed."""
        target = len(done) + count
        await until(
            "calls pass",
            lambda: len(done) >= target or any(each.done() for each in workers),
        )
        for each in workers:
            if each.done():
                each.result()

    try:
        await more()
        yield more
        await more()
    finally:
        stop.set()
        await asyncio.gather(*workers)


@pytest.fixture
async def traveller(exchange, heard_of):
    """Somebody whom Sichuan has attested: Guangdong must ask Sichuan to recognise them."""
    async with exchange.client(GUANGDONG, "app") as app:
        return (await heard_of(exchange, app)).document


def renew(exchange, stem="node", identity=NODE, days=30):
    """Issue a certificate anew in its place."""
    place = home(exchange, identity.province)
    issue_into(place, stem, identity, now=datetime.now(UTC), lifetime=days * DAY)
    return (place / f"{stem}.pem").read_bytes()


async def test_a_certificate_is_replaced_under_load_and_no_call_fails(exchange, traveller):
    before = shown(exchange)
    app, _ = following(exchange, GUANGDONG, "app")
    async with app, load(app, traveller) as more:
        for identity in (NODE, dataclasses.replace(NODE, province=GUANGDONG)):
            new = renew(exchange, identity=identity)
            await until_shown(exchange, new, identity.province)
            await more()
        await asyncio.sleep(1.5)  # connections end of age meanwhile
        await more()
    assert shown(exchange) != before
    assert len(events(exchange, GUANGDONG, "identity.changed")) == 1


async def test_a_key_of_another_certificate_is_refused_and_the_old_pair_serves_on(
    exchange, traveller
):
    place = home(exchange)
    before = shown(exchange)
    good = (place / "node-key.pem").read_bytes()
    shutil.copy(place / "app-key.pem", place / "node-key.pem")
    (refused,) = await until("it is refused", lambda: events(exchange, SICHUAN, "identity.refused"))
    assert "identity.key: the key is not the certificate's" in refused["why"]
    assert shown(exchange) == before
    app, _ = following(exchange, GUANGDONG, "app")
    async with app, load(app, traveller):
        pass
    (place / "node-key.pem").write_bytes(good)
    await until_shown(exchange, renew(exchange))
    assert len(events(exchange, SICHUAN, "identity.refused")) == 1


async def test_a_certificate_that_no_peer_would_accept_is_refused(exchange):
    """An app's, and one of an authority outside the trust list: the old one serves on."""
    place = home(exchange)
    before = shown(exchange)
    known = len(events(exchange, SICHUAN, "identity.refused"))

    async def refused(words):
        def said():
            found = events(exchange, SICHUAN, "identity.refused")[known:]
            return any(words in event["why"] for event in found)

        await until(words, said)
        assert shown(exchange) == before

    renew(exchange, identity=dataclasses.replace(NODE, role=Role.APP))
    await refused("not of a node")
    stranger = make_authority(SICHUAN, now=datetime.now(UTC), lifetime=30 * DAY)
    certificate, key = issue(stranger, NODE, now=datetime.now(UTC), lifetime=DAY)
    (place / "node.pem").write_bytes(certificate)
    (place / "node-key.pem").write_bytes(key)
    await refused("no authority of 510000")
    await until_shown(exchange, renew(exchange))


async def test_a_clients_certificate_is_replaced_under_load(exchange, traveller):
    app, _ = following(exchange, GUANGDONG, "app")
    identity = Identity(GUANGDONG, Role.APP, "app")
    async with app, load(app, traveller) as more:
        old = app._channel
        new = renew(exchange, "app", identity)
        await until("the channel is replaced", lambda: app._channel is not old)
        assert app._link.endpoint.pair.certificate == new
        assert app._channel.get_state() is grpc.ChannelConnectivity.READY
        await more()
        # Half of a pair changes nothing.
        place = home(exchange, GUANGDONG)
        key = (place / "app-key.pem").read_bytes()
        shutil.copy(place / "admin-key.pem", place / "app-key.pem")
        kept = app._channel
        await asyncio.sleep(1.2)
        await more()
        assert app._channel is kept
        (place / "app-key.pem").write_bytes(key)


async def test_a_client_whose_new_certificate_is_not_accepted_goes_on_with_the_old(
    exchange, traveller
):
    app, _ = following(exchange, GUANGDONG, "app")
    place = home(exchange, GUANGDONG)
    good = [(file, file.read_bytes()) for file in (place / "app.pem", place / "app-key.pem")]
    stranger = make_authority(GUANGDONG, now=datetime.now(UTC), lifetime=30 * DAY)
    app._link._patience = 0.5
    async with app, load(app, traveller) as more:
        used = app._channel
        identity = Identity(GUANGDONG, Role.APP, "app")
        pair = issue(stranger, identity, now=datetime.now(UTC), lifetime=DAY)
        try:
            for (file, _), content in zip(good, pair, strict=True):
                file.write_bytes(content)
            await until("the client tries", lambda: app._link._moving)
            await asyncio.sleep(2)  # connections end of age, and the old pair makes new ones
            await more()
            assert app._channel is used
        finally:
            for file, content in good:
                file.write_bytes(content)
        await until("the client tries no more", lambda: not app._link._moving)


async def test_an_idle_client_comes_back_with_its_new_certificate(exchange, traveller):
    """Its connection and its certificate are gone, and the first call passes all the same."""
    place = home(exchange, GUANGDONG)
    identity = Identity(GUANGDONG, Role.APP, "app")
    stranger = make_authority(GUANGDONG, now=datetime.now(UTC), lifetime=30 * DAY)
    pair = issue(stranger, identity, now=datetime.now(UTC), lifetime=DAY)
    for name, content in zip(("app.pem", "app-key.pem"), pair, strict=True):
        (place / name).write_bytes(content)
    app, _ = following(exchange, GUANGDONG, "app")  # with a pair that nobody takes any more
    renew(exchange, "app", identity)
    async with app:
        decision = await app.recognize(traveller, CHECK)
        assert decision.outcome == recognition.OUTCOME_RECOGNIZED


async def test_a_stream_outlives_its_channel(exchange, people):
    """A file that is being published goes on, though certificate and channel change under it."""
    app, _ = following(exchange, SICHUAN, "issuer")
    credit_code = people.issuer.credit_code
    old = app._channel
    replaced = asyncio.Event()
    loop = asyncio.get_running_loop()

    def rows():
        for index in range(200):
            if index == 64:
                asyncio.run_coroutine_threadsafe(replaced.wait(), loop).result(15)
            yield index, people.tested()

    async def replace():
        renew(exchange, "issuer", Identity(SICHUAN, Role.ISSUER, credit_code))
        await asyncio.sleep(1.1)
        await app.publish(people.tested())  # a call begins the change
        await until("the channel is replaced", lambda: app._channel is not old)
        replaced.set()

    async with app:
        replacing = asyncio.create_task(replace())
        items = [item async for item in app.publish_all(rows())]
        await replacing
    assert sorted(item.index for item in items) == list(range(200))
    assert not any(item.error for item in items)


async def test_an_authority_is_rotated_under_load(exchange, traveller, tmp_path):
    """Both vouch, then all is issued anew, then the new one alone vouches: no call fails."""
    place = home(exchange)
    old_home = tmp_path / SICHUAN
    shutil.copytree(place, old_home, ignore=shutil.ignore_patterns("data*", "node.*", "trust*"))
    profile = exchange.trust().profile(SICHUAN)
    old_roots = profile.tls_ca.encode()
    app, at_guangdong = following(exchange, GUANGDONG, "app")
    own, at_sichuan = following(exchange, SICHUAN, "app")
    stale = Client(
        exchange.addresses[SICHUAN],
        province=SICHUAN,
        certificate=(old_home / "app.pem").read_bytes(),
        key=(old_home / "app-key.pem").read_bytes(),
        trust=exchange.trust,
    )

    async def publish(tls_ca):
        exchange.publish(dataclasses.replace(profile, tls_ca=tls_ca))
        at_guangdong["version"] = at_sichuan["version"] = exchange.trust()
        await until_followed(exchange)

    async with app, own, stale, load(app, traveller) as more, load(own, traveller) as more_at_home:
        assert cli.run(["identity", "authority", "rotate", str(place)]) == 0
        # Who would issue by an authority that nobody knows yet is stopped.
        assert cli.run(["identity", "authority", "adopt", str(place)]) == 1
        await publish((place / "authority-both.pem").read_text())
        await more()
        await asyncio.sleep(1.2)  # a client looks once a second
        await more_at_home()
        assert cli.run(["identity", "authority", "adopt", str(place)]) == 0
        for role, name in (("node", ""), ("app", APP), ("admin", "admin")):
            more_arguments = ["--name", name] if name else []
            arguments = ["identity", "issue", str(place), "--role", role, *more_arguments]
            assert cli.run(arguments) == 0
        await until_shown(exchange, (place / "node.pem").read_bytes())
        await more()
        await more_at_home()
        # Both are accepted, on either side.
        shown(exchange, directory=old_home)
        shown(exchange)
        with pytest.raises(ssl.SSLError):
            shown(exchange, roots=old_roots)
        await stale.recognize(traveller, CHECK)
        await until(
            "the client has changed too",
            lambda: own._link._endpoint.pair.certificate == (place / "app.pem").read_bytes(),
        )
        await publish((place / "authority-next.pem").read_text())
        with pytest.raises(NoIdentityError):  # a live connection of the old authority's
            await stale.recognize(traveller, CHECK)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            shown(exchange, directory=old_home)
        await more(100)
        await more_at_home(100)
        await until(
            "the old connection ends of age",
            lambda: stale._channel.get_state() is not grpc.ChannelConnectivity.READY,
        )
        await asyncio.sleep(1.5)  # all others too, and they come back
        await more()
        await more_at_home()
    renew(exchange, "issuer", Identity(SICHUAN, Role.ISSUER, "12510100MB0X58800H"))


# --- the command ------------------------------------------------------------------------------


@pytest.fixture
def trial(tmp_path):
    """A province's folder, without a node."""
    directory = tmp_path / "exchange"
    initialise(directory, {SICHUAN: Member(SICHUAN, "127.0.0.1:7443")}, now=datetime.now(UTC))
    return directory / SICHUAN


def status(place, *arguments, who="--client app.toml"):
    option, file = who.split()
    command = ["identity", "status", option, str(place / file), *arguments]
    result = CliRunner().invoke(cli.app, command)
    return result.exit_code, result.stdout, result.stderr


def document(place, *arguments, who="--client app.toml"):
    code, text, _ = status(place, *arguments, "--output", "json", who=who)
    return code, json.loads(text)["certificates"]


@pytest.mark.parametrize("who", ["--client app.toml", "--config node.toml"])
def test_status_shows_what_holds(trial, who):
    code, text, _ = status(trial, who=who)
    assert code == 0
    assert "有效" in text
    assert "tls_ca" in text
    code, (leaf, authority) = document(trial, who=who)
    assert (leaf["days_left"], leaf["fits_trust_list"], leaf["key_fits"]) == (89, True, True)
    role = f"app/{APP}" if "app" in who else "node/node-1"
    assert leaf["subject"] == f"spiffe://510000.tongxing/{role}"
    assert leaf["issuer"] == authority["issuer"]
    assert authority["key_fits"] is None


def test_status_warns_of_an_end(trial):
    assert document(trial, "--warn-days", "89")[0] == 0
    assert document(trial, "--warn-days", "90")[0] == 3
    identity = Identity(SICHUAN, Role.APP, "app")
    issue_into(trial, "app", identity, now=datetime.now(UTC), lifetime=10 * DAY)
    code, text, _ = status(trial)
    assert code == 3
    assert "即将到期" in text


def test_status_refuses_an_expired_certificate(trial):
    identity = Identity(SICHUAN, Role.APP, "app")
    then = datetime.now(UTC) - DAY / 2
    # The authority begins when it was made: make one of yesterday.
    yesterday = make_authority(SICHUAN, now=then, lifetime=30 * DAY)
    certificate, key = issue(yesterday, identity, now=then, lifetime=DAY / 4)
    (trial / "app.pem").write_bytes(certificate)
    (trial / "app-key.pem").write_bytes(key)
    code, (leaf, _) = document(trial)
    assert code == 1
    assert leaf["days_left"] == -1
    assert not leaf["fits_trust_list"]


def test_status_refuses_a_stranger_and_a_wrong_key(trial):
    identity = Identity(SICHUAN, Role.APP, "app")
    stranger = make_authority(SICHUAN, now=datetime.now(UTC), lifetime=30 * DAY)
    (trial / "app.pem").write_bytes(
        issue(stranger, identity, now=datetime.now(UTC), lifetime=20 * DAY)[0]
    )
    code, text, err = status(trial)
    assert code == 1
    assert "不可用" in text
    assert "no authority of 510000" in err
    assert "the key is not the certificate's" in err
    _, (leaf, _) = document(trial)
    assert (leaf["fits_trust_list"], leaf["key_fits"]) == (False, False)


def test_status_without_a_trust_list_says_so(trial):
    (trial.parent / "trust" / "timestamp.json").unlink()
    code, text, err = status(trial)
    assert code == 1
    assert "spiffe" in text
    assert "timestamp.json" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--role", "king", "--name", "x"],
        ["--role", "app"],
        ["--role", "app", "--name", "new"],
        ["--role", "app", "--name", "a/b", "--node", "127.0.0.1:1"],
    ],
)
def test_what_cannot_be_issued_is_refused(trial, arguments):
    assert cli.run(["identity", "issue", str(trial), *arguments]) == 1


def test_a_client_is_renewed_in_its_place(trial):
    before = (trial / "app.pem").read_bytes()
    settings = (trial / "app.toml").read_text()
    arguments = ["--role", "app", "--name", APP, "--days", "7"]
    assert cli.run(["identity", "issue", str(trial), *arguments]) == 0
    assert (trial / "app.pem").read_bytes() != before
    assert (trial / "app.toml").read_text() == settings
    assert document(trial)[0] == 3
    assert (trial / "app-key.pem").stat().st_mode & 0o777 == 0o600


def test_a_second_successor_is_refused(trial):
    rotate = ["identity", "authority", "rotate", str(trial)]
    assert cli.run(rotate) == 0
    assert cli.run(rotate) == 1


# --- the files --------------------------------------------------------------------------------


def test_half_of_a_new_pair_changes_nothing_and_is_no_refusal_yet(trial, capfd):
    tls = TlsFiles(trial / "node.pem", trial / "node-key.pem")
    told = []
    tls.on_change(told.append)
    before = tls.current
    certificate, key = issue(authority_of(trial), NODE, now=datetime.now(UTC), lifetime=DAY)
    (trial / "node-key.pem").write_bytes(key)
    tls.look()
    assert tls.current is before
    assert "identity.refused" not in capfd.readouterr().out
    tls.look()
    tls.look()
    assert capfd.readouterr().out.count("identity.refused") == 1
    (trial / "node.pem").write_bytes(certificate)
    tls.look()
    assert [pair.certificate for pair in told] == [certificate]
    assert tls.current.key == key
    (trial / "node.pem").unlink()
    tls.look()
    assert tls.current.key == key
    assert len(told) == 1


def test_an_authority_that_grpc_cannot_read_is_refused():
    """In the pool it would take every authority behind it away, from every node."""
    good = make_authority(SICHUAN, now=datetime.now(UTC), lifetime=DAY).certificate
    der = x509.load_pem_x509_certificate(good).public_bytes(Encoding.DER)
    bad = ssl.DER_cert_to_PEM_cert(der.replace(b"510000.tongxing", b"\xff\xfe0000.tongxing", 2))
    x509.load_pem_x509_certificates(bad.encode())  # it looks like one
    with pytest.raises(TrustListError, match="tls_ca"):
        Profile(SICHUAN, (), bad, ())


def test_half_a_certificate_swallows_no_other_provinces():
    authorities = {
        code: make_authority(code, now=datetime.now(UTC), lifetime=DAY).certificate
        for code in (SICHUAN, GUANGDONG)
    }
    texts = {**authorities, GUANGDONG: authorities[GUANGDONG] + b"-----BEGIN CERTIFICATE-----\n"}
    pool = IdentityVerifier(texts).pool(first=SICHUAN)
    assert pool == authorities[SICHUAN] + authorities[GUANGDONG]


def test_a_node_whose_certificate_ends_soon_says_so(tmp_path, invented):
    with TrialExchange(tmp_path / "soon", (SICHUAN,)) as trial:
        renew(trial, days=10)
        trial.start()
        (event,) = events(trial, SICHUAN, "identity.expires_soon")
        assert (event["level"], event["what"], event["days"]) == ("warning", "certificate", 9)
