// What a port of clients/js does, case by case, over a socket and a clock that the case holds. Times are exact.
//
//   node cases.mjs                      prints {name: null or what was wrong}
import assert from "node:assert/strict";
import * as psession from "../../clients/js/psession.js";
import { realClock } from "../../clients/js/link.js";
import { VirtualClock, settle } from "./virtual.mjs";

const cases = {};
const test = (name, run) => {
    assert(!(name in cases), `two cases are called: ${name}`);
    cases[name] = run;
};

const START = 1000; // a clock does not begin at 0
let clock;
let sockets; // all that were made, the latest last
let opens; // whether a socket opens by itself, or "fails"
let lines; // of the log

class Socket {
    readyState = 0;
    bufferedAmount = 0;
    sent = [];
    isClosed = false;

    constructor(url, protocols) {
        if (!/^wss?:/.test(url)) throw new SyntaxError(`${url} is no URL of a WebSocket`);
        Object.assign(this, { url, protocols });
        sockets.push(this);
        this.made = seconds();
        if (opens) queueMicrotask(() => (opens === "fails" ? this.lose() : this.open()));
    }

    open() {
        this.readyState = 1;
        this.onopen?.({});
    }

    send(text) {
        assert.equal(this.readyState, 1, "a frame for a socket that is not open");
        this.sent.push(JSON.parse(text));
    }

    /** The message comes from the peer. */
    say(message) {
        this.onmessage?.({ data: typeof message === "object" && !(message instanceof ArrayBuffer) ? JSON.stringify(message) : message });
    }

    /** The link breaks, or the peer closes it. */
    lose(code = 1006, reason = "") {
        this.readyState = 3;
        this.onclose?.({ code, reason });
    }

    close(code) {
        if (this.isClosed) return;
        this.isClosed = true;
        this.code = code;
        this.readyState = 2;
        queueMicrotask(() => this.lose(code ?? 1005));
    }
}

const seconds = () => clock.now() - START;
const last = () => sockets.at(-1);
const logger = Object.fromEntries(["info", "warn", "error"].map((level) => [level, (...words) => lines.push([level, ...words])]));

let ports; // all that were opened

async function connect(options = {}) {
    const quiet = { keepaliveInterval: Infinity, jitter: 0, logger };
    const port = await psession.connect("ws://peer", { WebSocket: Socket, clock, ...quiet, ...options });
    ports.push(port);
    return port;
}

/** What a promise comes to, and when. */
function outcome(promise) {
    const found = { isOver: false };
    promise.then(
        (value) => Object.assign(found, { value, isOver: true, at: seconds() }),
        (error) => Object.assign(found, { error, isOver: true, at: seconds() }),
    );
    return found;
}

/** What was sent since the last call. */
const sent = (socket = last()) => socket.sent.splice(0);

/** A port, and a life of its peer's that has answered a turn exactly. */
async function exactPort(options) {
    const port = await connect(options);
    const first = outcome(port.request({ first: true }));
    const [{ sid, _turn, _life }] = sent();
    last().say({ sid, _re: _turn, _life });
    await settle(clock);
    assert.deepEqual(first.value, {});
    return { port, life: _life };
}

const question = (sid, _turn, more = {}) => ({ sid, _turn, _new: true, _life: 500, ...more });

// -- asking -----------------------------------------------------------------------------------------------------------

test("a request carries the payload as it is and its reply is the payload alone", async () => {
    const port = await connect();
    const payload = Object.freeze({ command: "status", deep: Object.freeze({ list: Object.freeze([1]) }) });
    const asked = outcome(port.request(payload));
    const [{ _life, ...message }] = sent();
    assert.deepEqual(message, { ...payload, sid: 1, _turn: 1, _new: true, _end: true, _wait: 60 });
    last().say({ status: "ok", sid: 1, _re: 1, _life });
    await settle(clock);
    assert.deepEqual(asked.value, { status: "ok" });
    assert.equal(port.statistics().open, 0);
});

test("a turn is tried as often and as long as it says, and its error says so", async () => {
    const port = await connect();
    const asked = outcome(port.request({ q: 1 }, { timeout: 3, retryCount: 3, retryInterval: 0.5 }));
    for (const [from, left] of [[0, 13.5], [3.5, 10], [7, 6.5], [10.5, 3]]) {
        await clock.advance(from - seconds());
        const [message, ...more] = sent();
        assert.deepEqual([message._turn, message._wait, more], [1, left, []], `at ${from}`);
    }
    await clock.advance(60);
    const { error } = asked;
    assert.equal(error.constructor, psession.TimeoutError);
    assert.deepEqual([asked.at, error.attempts, error.waited, error.outcome], [13.5, 4, 13.5, "sent"]);
    assert.match(error.message, /^session 1: no reply: the peer is slow or gone.*\(4 attempts, 13\.5 s\)$/);
    assert.equal(port.statistics().timedOut, 1);
});

test("a reply in hand beats its deadline", async () => {
    const port = await connect();
    const asked = outcome(port.request({ q: 1 }, { timeout: 2 }));
    const [{ _life }] = sent();
    clock.after(2, () => last().say({ a: 1, sid: 1, _re: 1, _life })); // due with the timeout, and after it
    await clock.advance(2);
    assert.deepEqual(asked.value, { a: 1 });
});

test("turns of a session are one at a time and each has its own time", async () => {
    const port = await connect();
    const session = port.session();
    const [first, second] = [1, 2].map((q) => outcome(session.send({ q }, { timeout: 5 })));
    await clock.advance(4);
    const [{ _life }, ...more] = sent();
    assert.deepEqual(more, []);
    last().say({ a: 1, sid: 1, _re: 1, _life });
    await settle(clock);
    assert.deepEqual([first.value, sent().map(({ q, _turn }) => [q, _turn])], [{ a: 1 }, [[2, 2]]]);
    await clock.advance(10);
    assert.deepEqual([second.error.constructor, second.at], [psession.TimeoutError, 9]);
});

test("what a payload may not be is refused before anything is sent, and the session lives on", async () => {
    const { MalformedMessageError: malformed, MessageTooLargeError: large } = psession;
    const port = await connect({ maxMessageBytes: 1000 });
    const session = port.session();
    const circle = {};
    circle.again = circle;
    const refused = [
        [{ sid: 1 }, malformed, /"sid".*leave it out/],
        [{ _turn: 1 }, malformed, /"_turn".*rename it/],
        [{ n: NaN }, malformed, /"n" is NaN/],
        [{ deep: [{ n: -Infinity }] }, malformed, /"n" is -Infinity/],
        [{ map: new Map() }, malformed, /"map" is no value of JSON's/],
        [{ call() {} }, malformed, /"call" is no value of JSON's/],
        [{ list: [undefined] }, malformed, /item 0 of a list/],
        [{ n: 1n }, malformed, /BigInt/],
        [circle, malformed, /circular/],
        [[1], malformed, /an Array/],
        ["text", malformed, /a String/],
        [null, malformed, /a Null/],
        [undefined, malformed, /an Undefined/],
        [new Map([["a", 1]]), malformed, /a Map/],
        [Promise.resolve({}), malformed, /await it first/],
        [{ text: "half \ud83d" }, malformed, /half of a surrogate pair/],
        [{ text: "x".repeat(1000) }, large, /maxMessageBytes is 1000/],
        [{ text: "\u{1f600}".repeat(250) }, large, /the message has 1\d\d\d bytes/],
        [{ text: "\u20ac".repeat(330) }, large, /the message has 1\d\d\d bytes/],
        [{ text: "\u00e9".repeat(500) }, large, /the message has 1\d\d\d bytes/],
    ];
    for (const [payload, kind, text] of refused) {
        for (const call of [() => session.send(payload), () => session.post(payload), () => port.request(payload)]) {
            const tried = outcome(call());
            await settle(clock);
            assert.equal(tried.error?.constructor, kind, String(tried.error?.stack));
            assert.match(tried.error.message, text);
        }
    }
    assert.deepEqual(sent(), []);
    outcome(session.send({ nothing: undefined, date: new Date(0), text: "\u{1f600}".repeat(200) }));
    const [message] = sent();
    assert.deepEqual([message.date, "nothing" in message], ["1970-01-01T00:00:00.000Z", false]);
});

test("a payload with a toJSON of its own travels as that, and a field called __proto__ is a field", async () => {
    const port = await connect();
    const asked = outcome(port.request({ toJSON: () => ({ plain: 1 }) }));
    const [{ plain, _life }] = sent();
    assert.equal(plain, 1);
    last().say(`{"__proto__": {"evil": true}, "a": 1, "sid": 1, "_re": 1, "_life": ${_life}}`);
    await settle(clock);
    assert.equal(asked.value.evil, undefined);
    assert.deepEqual(Object.keys(asked.value), ["__proto__", "a"]);
    outcome(port.request(asked.value));
    assert.deepEqual(Object.keys(sent()[0]).slice(0, 2), ["__proto__", "a"]);
});

test("options that are none are refused with those that there are", async () => {
    const port = await connect();
    await assert.rejects(port.request({}, { timeOut: 1 }), /request\(\) has no option timeOut; there are timeout,/);
    await assert.rejects(port.request({}, { timeout: "5" }), /timeout must be 0 or more seconds .* not "5"/);
    await assert.rejects(port.request({}, { timeout: -1 }), RangeError);
    await assert.rejects(port.request({}, { retryCount: 0.5 }), RangeError);
    const durations = ["timeout", "retryInterval", "resumeWithin", "connectTimeout", "firstDelay", "keepaliveInterval"];
    durations.push("keepalivePatience", "grace", "sessionIdRest", "sessionMaxLife", "maxDelay");
    for (const name of durations) await assert.rejects(connect({ [name]: -1 }), RangeError);
    for (const name of ["backoff", "jitter"]) await assert.rejects(connect({ [name]: NaN }), RangeError);
    assert.throws(() => port.stream({}, { credit: 0 }), RangeError);
    assert.throws(() => port.session({ signal: null }), TypeError);
    for (const [options, text] of [
        [{ retries: 3 }, /connect\(\) has no option retries/],
        [{ onRequest: "f" }, /onRequest must be a function/],
        [{ dialect: "Exact" }, /dialect must be one of "exact", "classic"/],
        [{ inboxLimit: 0 }, /inboxLimit must be a whole number/],
        [{ resumeWithin: 5, dialect: "classic" }, /resumeWithin needs dialect: "exact"/],
        [{ maxDelay: Infinity }, /maxDelay must be finite/],
        [{ sessionIds: { first: 5, last: 4 } }, /sessionIds must go up/],
        [{ fields: { turns: "_t" } }, /fields has no turns/],
        [{ sessionIdName: "_turn" }, /the names of the fields must differ/],
        [{ WebSocket: {} }, /pass one, such as that of the package "ws"/],
    ]) {
        await assert.rejects(connect(options), text);
    }
});

test("whoever aborts a signal gets its reason, and the peer is told once", async () => {
    const { port } = await exactPort();
    const session = port.session();
    const [front, behind] = [new AbortController(), new AbortController()];
    const first = outcome(session.send({ q: 1 }, { signal: front.signal }));
    const second = outcome(session.send({ q: 2 }, { signal: behind.signal }));
    sent();
    behind.abort("changed my mind");
    front.abort();
    await settle(clock);
    assert.deepEqual([first.error.name, second.error], ["AbortError", "changed my mind"]);
    assert.equal(first.error, front.signal.reason);
    assert.deepEqual(sent().map(({ _turn, _error }) => [_turn, _error]), [[2, "cancelled"]]);
    await assert.rejects(session.send({}, { signal: AbortSignal.abort("long ago") }), (reason) => reason === "long ago");
    await assert.rejects(port.request({}, { signal: AbortSignal.abort("long ago") }), (reason) => reason === "long ago");
    assert.deepEqual([sent(), port.statistics().cancelled >= 3], [[], true]);
});

test("giving up is an error of each waiter's own, and a session goes on after it", async () => {
    const { port } = await exactPort();
    const session = port.session();
    const cause = new Error("the user left");
    for (const [give, kind, code] of [
        [() => session.cancel(), psession.CancelError, "cancelled"],
        [() => session.abort(cause), psession.AbortError, "aborted"],
        [() => session.timeout(), psession.TimeoutError, "timeout"],
        [() => port.cancel(), psession.CancelError, "cancelled"],
        [() => port.abort(cause), psession.AbortError, "aborted"],
        [() => port.timeout(), psession.TimeoutError, "timeout"],
    ]) {
        const waiting = [outcome(session.send({})), outcome(session.send({}))];
        sent();
        give();
        await settle(clock);
        assert.deepEqual(waiting.map(({ error }) => error.constructor), [kind, kind]);
        assert.notEqual(waiting[0].error, waiting[1].error);
        if (code === "aborted") assert.equal(waiting[0].error.cause, cause);
        assert.deepEqual(sent().map(({ _error }) => _error), [code]);
    }
    session.end();
    await assert.rejects(session.send({}), psession.InvalidError);
    await assert.rejects(session.post({}), psession.InvalidError);
    await assert.rejects(session.receive(), psession.InvalidError);
});

test("a post beside the turn that opens a session does not end that turn", async () => {
    const { port } = await exactPort();
    const session = port.session();
    const asked = outcome(session.send({ question: 1 }));
    await session.post({ n: 1 });
    await session.post({ n: 2 });
    const [first, ...posts] = sent();
    assert.deepEqual(posts, [1, 2].map((n) => ({ n, sid: first.sid, _part: n, _life: first._life })));
    last().say({ sum: 3, sid: first.sid, _re: first._turn, _life: first._life });
    await settle(clock);
    assert.deepEqual(asked.value, { sum: 3 });
    session.end();
});

test("what was asked in a peer's last life is not taken for what it asks in the next", async () => {
    const { port } = await exactPort();
    const session = port.session();
    const asked = outcome(session.send({ n: 1 }));
    const [first] = sent();
    last().say(question(7, 1));
    last().say({ ask: "who", sid: first.sid, _re: first._turn, _turn: 1, _life: first._life });
    await settle(clock);
    assert.deepEqual(asked.value, { ask: "who" });
    last().say({ ...question(7, 1), _life: 501 });
    last().say({ ask: "what", sid: first.sid, _turn: 1, _life: first._life });
    sent();
    await session.post({ name: "anna" }); // it is for the first question, and nobody waits for that any more
    assert.deepEqual(
        sent().map(({ name, _re }) => [name, _re]),
        [["anna", undefined]],
    );
    session.end();
});

test("the error of a peer has its code, its text, and whether something was done", async () => {
    const port = await connect();
    for (const [_error, code, text, outcomeOf] of [
        ["refused.locked: it is: locked", "refused.locked", "it is: locked", "refused"],
        ["crashed", "crashed", "", "sent"],
        ["refusedly", "refusedly", "", "sent"],
    ]) {
        const asked = outcome(port.request({}));
        const [{ sid, _turn, _life }] = sent();
        last().say({ sid, _re: _turn, _error, _life });
        await settle(clock);
        const { error } = asked;
        assert.equal(error.constructor, psession.RemoteError);
        assert.deepEqual([error.code, error.text, error.outcome], [code, text, outcomeOf]);
    }
});

test("a peer that closes to new sessions is asked for none, and what it did not take was refused", async () => {
    const { port } = await exactPort();
    const [taken, late] = [outcome(port.request({ n: 1 })), outcome(port.request({ n: 2 }))];
    last().say({ _turn: 2, _end: true, _life: 500 });
    await settle(clock);
    assert.deepEqual([taken.isOver, late.error.code, late.error.outcome], [false, "refused.closing", "refused"]);
    await assert.rejects(port.request({}), { name: "PortClosedError", outcome: "not_sent" });
});

test("where no number is free a request waits for one, for the time of an attempt", async () => {
    const options = { sessionIds: { first: 1, last: 1 }, onSessionOverflow: "wait" };
    const port = await connect(options);
    const session = port.session();
    assert.throws(() => port.session(), psession.OverflowError);
    const [waits, gone] = [outcome(port.request({ n: 1 })), outcome(port.request({ n: 2 }, { timeout: 3 }))];
    const stopped = outcome(port.request({ n: 3 }, { signal: AbortSignal.timeout(0) }));
    await new Promise((resolve) => setTimeout(resolve, 20));
    await clock.advance(3);
    assert.deepEqual([waits.isOver, gone.error.name, gone.at], [false, "TimeoutError", 3]);
    assert.equal(stopped.error.name, "TimeoutError");
    session.end();
    await settle(clock);
    assert.deepEqual(sent().map(({ n }) => n), [1]);
    const replies = port.stream({ n: 5 });
    const left = outcome(replies.next());
    outcome(replies.return());
    const closed = outcome(port.request({ n: 4 }));
    outcome(port.close());
    await settle(clock);
    assert.deepEqual([left.error.name, closed.error.name], ["PortClosedError", "PortClosedError"]);
    const refusing = await connect({ ...options, onSessionOverflow: "refuse" });
    refusing.session();
    await assert.rejects(refusing.request({}), psession.OverflowError);
});

test("a stream that is left while it waits for a number asks nothing when there is one", async () => {
    const port = await connect({ sessionIds: { first: 1, last: 1 }, onSessionOverflow: "wait" });
    const session = port.session();
    const replies = port.stream({});
    const waits = outcome(replies.next());
    await replies.return();
    session.end();
    await settle(clock);
    assert.deepEqual([sent(), waits.value, port.statistics().open], [[], { value: undefined, done: true }, 0]);
});

test("on the classic wire a turn whose answer may still come takes a fresh number", async () => {
    const port = await connect({ dialect: "classic", sessionIds: { first: 1, last: 2 }, sessionIdRest: 30 });
    const session = port.session();
    outcome(session.send({ n: 1 }, { timeout: 1 }));
    await clock.advance(1);
    const second = outcome(session.send({ n: 2 }, { timeout: 1 }));
    await clock.advance(1);
    const third = outcome(session.send({ n: 3 }, { timeout: 40 })); // both numbers rest: it waits until one is safe
    assert.deepEqual(sent(), [{ n: 1, sid: 1 }, { n: 2, sid: 2 }]);
    last().say({ late: true, sid: 1 });
    await clock.advance(28);
    assert.deepEqual(sent(), []);
    await clock.advance(1);
    assert.deepEqual([sent(), session.sid], [[{ n: 3, sid: 1 }], 1]);
    last().say({ a: 3, sid: 1 });
    await settle(clock);
    assert.deepEqual([third.value, second.error.name, port.statistics().late], [{ a: 3 }, "TimeoutError", 1]);
});

test("a session that was given up for others, or is idle for too long, is over", async () => {
    const port = await connect({ sessionMaxLife: 100, sessionIds: { first: 1, last: 2 } });
    const [first, second] = [port.session(), port.session()];
    await clock.advance(50);
    const third = port.session();
    assert.deepEqual([first.closed, second.closed, port.statistics().recycled], [true, false, 1]);
    await second.post({});
    await clock.advance(99.9);
    assert.deepEqual([second.closed, third.closed], [false, false]);
    await clock.advance(0.1);
    assert.deepEqual([second.closed, third.closed, port.statistics().expired], [true, true, 2]);
    assert.equal((await outcomeOf(third.receive())).error.name, "InvalidError");
});

const outcomeOf = async (promise) => {
    const found = outcome(promise);
    await settle(clock);
    return found;
};

test("a turn that is given up while it waits for a number is not asked when there is one", async () => {
    const port = await connect({ dialect: "classic", sessionIds: { first: 1, last: 2 }, onSessionOverflow: "refuse" });
    const [session, other] = [port.session(), port.session()];
    outcome(session.send({ n: 1 }, { timeout: 1 }));
    await clock.advance(1);
    const waits = outcome(session.send({ n: 2 }));
    await settle(clock);
    session.cancel();
    await settle(clock);
    assert.equal(waits.error.name, "CancelError");
    assert.deepEqual(sent(), [{ n: 1, sid: 1 }]);
    const again = outcome(session.send({ n: 3 }));
    other.end(); // its number was never used: it is free at once
    await settle(clock);
    assert.deepEqual([sent(), session.sid, again.isOver], [[{ n: 3, sid: 2 }], 2, false]);
});

test("in a session of the peer's, whose number is the peer's, an unsafe turn is refused", async () => {
    for (const [onUnanswered, error] of [["fresh", "InvalidError"], ["keep", undefined], ["end", "InvalidError"]]) {
        const sessions = [];
        await connect({
            dialect: "classic",
            onUnanswered,
            onSession: (session) => (sessions.push(session), new Promise(() => {})),
        });
        last().say({ sid: 5 });
        outcome(sessions[0].send({ n: 1 }, { timeout: 1 }));
        await clock.advance(1);
        const second = outcome(sessions[0].send({ n: 2 }));
        await settle(clock);
        assert.equal(second.error?.name, error);
    }
});

test("a message can be waited for, for some seconds or until a signal says no", async () => {
    const port = await connect();
    const session = port.session();
    const controller = new AbortController();
    const [timed, stopped] = [session.receive({ timeout: 3 }), session.receive({ signal: controller.signal })].map(outcome);
    await clock.advance(2.9);
    assert.equal(timed.isOver, false);
    await clock.advance(0.1);
    assert.deepEqual([timed.error.name, timed.at], ["TimeoutError", 3]);
    controller.abort("no");
    await settle(clock);
    assert.equal(stopped.error, "no");
    outcome(session.post({}));
    const [{ sid, _life }] = sent();
    const heard = outcome(session.receive({ timeout: 3 }));
    last().say({ n: 1, sid, _part: 1, _life });
    last().say({ n: 2, sid, _part: 2, _life });
    await settle(clock);
    assert.deepEqual([heard.value, port.statistics().heldBytes > 0], [{ n: 1 }, true]);
    session.end();
    assert.equal(port.statistics().heldBytes, 0); // what is left is its owner's
    assert.deepEqual((await outcomeOf(session.receive())).value, { n: 2 });
    assert.equal(port.statistics().heldBytes, 0);
    assert.equal((await outcomeOf(session.receive())).error.name, "InvalidError");
    await assert.rejects(session.receive({ timeout: "3" }), RangeError);
});

// -- streams ----------------------------------------------------------------------------------------------------------

test("leaving a stream tells the peer once, and the session is free for the next turn", async () => {
    const { port, life } = await exactPort();
    const session = port.session();
    const got = [];
    const listening = outcome(
        (async () => {
            for await (const part of session.stream({ go: 1 })) {
                got.push(part);
                if (got.length === 2) break;
            }
        })(),
    );
    await settle(clock);
    const [{ sid, _turn, _credit, _part }] = sent();
    assert.deepEqual([_credit, _part], [32, 1]);
    const behind = outcome(session.send({ q: 1 }));
    for (const n of [2, 1, 1, 3]) last().say({ n, sid, _re: _turn, _part: n, _life: life });
    await settle(clock);
    assert.deepEqual([listening.isOver, got], [true, [{ n: 1 }, { n: 2 }]]);
    const [giveUp, next] = sent();
    assert.deepEqual(giveUp, { sid, _turn, _error: "ended", _life: life });
    assert.deepEqual([next.q, next._turn, behind.isOver], [1, _turn + 1, false]);
    assert.equal(port.statistics().duplicate, 1);
});

test("a stream ends after its last reply, its count, its quiet time or its whole time", async () => {
    const { port, life } = await exactPort();
    const ask = async (options, says) => {
        const got = [];
        const listening = outcome(
            (async () => {
                for await (const { n } of port.stream({}, options)) got.push(n);
            })(),
        );
        await settle(clock);
        const [{ sid, _turn }] = sent();
        for (const message of says) last().say({ sid, _re: _turn, _life: life, ...message });
        await clock.advance(1000);
        return { got, error: listening.error?.constructor.name, at: listening.at, sent: sent() };
    };
    const parts = [{ n: 1, _part: 1 }, { n: 2, _part: 2 }];
    let before = seconds();
    const took = ({ at }) => at - before;
    let found = await ask({}, [...parts, { _part: 3, _end: true }]);
    assert.deepEqual([found.got, found.error], [[1, 2], undefined]);
    found = await ask({}, [parts[0], { n: 2, _part: 2, _end: true }]);
    assert.deepEqual([found.got, found.error], [[1, 2], undefined]);
    found = await ask({ count: 2 }, parts);
    assert.deepEqual([found.got, found.error, found.sent[0]._error], [[1, 2], undefined, "ended"]);
    before = seconds();
    found = await ask({ timeout: 5, retryCount: 1, retryInterval: 1 }, parts);
    assert.deepEqual([found.got, found.error, took(found)], [[1, 2], "TimeoutError", 11]);
    assert.deepEqual(found.sent.map(({ _part, _error }) => _part ?? _error), [3, "timeout"]);
    before = seconds();
    found = await ask({ total: 7, timeout: 5, retryCount: 9 }, parts);
    assert.deepEqual([found.error, took(found)], ["TimeoutError", 7]);
    found = await ask({}, [...parts, { _part: 3, _error: "refused.enough: no more", _end: true }]);
    assert.deepEqual([found.got, found.error], [[1, 2], "RemoteError"]);
    found = await ask({ credit: 1 }, [{ n: 1, _part: 1 }, { n: 2, _part: 2 }, { n: 3, _part: 3 }, { n: 4, _part: 4 }]);
    assert.deepEqual([found.error, found.sent.at(-1)._error], ["OverrunError", "overrun"]);
    found = await ask({}, [{ n: 9 }]);
    assert.deepEqual([found.got, found.error], [[9], undefined]); // a peer that knows no streams answers once
    assert.equal(port.statistics().open, 0);
});

test("a stream may be stopped by its signal, in the loop or while it waits", async () => {
    const { port, life } = await exactPort();
    const controller = new AbortController();
    const replies = port.stream({}, { signal: controller.signal });
    const first = outcome(replies.next());
    await settle(clock);
    const [{ sid, _turn }] = sent();
    last().say({ n: 1, sid, _re: _turn, _part: 1, _life: life });
    await settle(clock);
    assert.deepEqual(first.value, { value: { n: 1 }, done: false });
    const second = outcome(replies.next());
    assert.equal((await outcomeOf(replies.next())).error.name, "InvalidError"); // one at a time
    controller.abort("enough");
    await settle(clock);
    assert.deepEqual([second.error, sent()[0]._error], ["enough", "cancelled"]);
    assert.deepEqual((await outcomeOf(replies.next())).value, { value: undefined, done: true });
});

test("a peer at work postpones the next attempt of a stream, never past its whole time", async () => {
    for (const [total, at] of [[100, 13], [12, 12], [Infinity, 8]]) {
        const { port, life } = await exactPort();
        const before = seconds();
        const listening = outcome(port.stream({}, { timeout: 5, total }).next());
        await clock.advance(4);
        const [{ sid, _turn }] = sent();
        last().say({ sid, _re: _turn, _wait: 9, _life: life }); // without an end: by no more than it has taken so far
        await clock.advance(100);
        assert.deepEqual([listening.error.name, listening.at - before], ["TimeoutError", at]);
    }
});

test("a stream that is stopped between two replies says so at the next", async () => {
    const { port, life } = await exactPort();
    const controller = new AbortController();
    const replies = port.stream({}, { signal: controller.signal });
    outcome(replies.next());
    await settle(clock);
    const [{ sid, _turn }] = sent();
    for (const n of [1, 2]) last().say({ n, sid, _re: _turn, _part: n, _life: life });
    await settle(clock);
    controller.abort("enough");
    await settle(clock);
    assert.deepEqual(sent().map(({ _error }) => _error), ["cancelled"]);
    assert.equal((await outcomeOf(replies.next())).error, "enough");
    assert.deepEqual([sent(), port.statistics().open, port.statistics().cancelled], [[], 0, 1]);
});

test("a stream needs the exact wire", async () => {
    const port = await connect({ dialect: "classic" });
    assert.throws(() => port.stream({}), psession.InvalidError);
    assert.throws(() => port.session().stream({}), psession.InvalidError);
});

test("a slow loop grants no more than a window beyond what it has taken", async () => {
    const { port, life } = await exactPort();
    const replies = port.stream({}, { credit: 4 });
    outcome(replies.next());
    await settle(clock);
    const [{ sid, _turn }] = sent();
    for (const n of [1, 2, 3, 4]) last().say({ n, sid, _re: _turn, _part: n, _life: life });
    await settle(clock);
    assert.deepEqual(sent(), []);
    await outcomeOf(replies.next());
    assert.deepEqual(sent(), [{ sid, _turn, _credit: 6, _life: life }]);
});

// -- answering --------------------------------------------------------------------------------------------------------

test("each question is answered once, and as often as it is asked", async () => {
    let runs = 0;
    await connect({ onRequest: async ({ q }) => ({ a: q, run: ++runs }) });
    last().say(question(7, 1, { q: 1, _end: true }));
    await settle(clock);
    const answer = { a: 1, run: 1, sid: 7, _re: 1, _life: 500 };
    assert.deepEqual(sent(), [answer]);
    last().say(question(7, 1, { q: 1, _end: true }));
    await settle(clock);
    assert.deepEqual([sent(), runs], [[answer], 1]);
});

test("a dialogue of requests stays for the next question, as long as it is not idle for too long", async () => {
    const port = await connect({ sessionMaxLife: 100, onRequest: async ({ q }) => ({ a: q }) });
    last().say(question(7, 1, { q: 1 }));
    await clock.advance(90);
    last().say({ q: 2, sid: 7, _turn: 2, _life: 500 });
    await clock.advance(90);
    assert.deepEqual([sent().map(({ a }) => a), port.statistics().accepted], [[1, 2], 1]);
    await clock.advance(10);
    assert.deepEqual([port.statistics().open, port.statistics().expired], [0, 1]);
});

test("a handler may close its port at once", async () => {
    const port = await connect({ onRequest: () => (port.close(), { a: 1 }) });
    const asked = outcome(port.request({}));
    last().say(question(7, 1, { _end: true }));
    await settle(clock);
    assert.deepEqual([port.closed, asked.error.constructor, lines], [true, psession.AbortError, []]);
});

test("a plain function answers in the step that read the question", async () => {
    await connect({ onRequest: ({ q }) => ({ a: q }) });
    last().say(question(7, 1, { q: 1, _end: true }));
    assert.deepEqual(sent(), [{ a: 1, sid: 7, _re: 1, _life: 500 }]);
    last().say({ q: 2, sid: 8 }); // on the classic wire
    assert.deepEqual(sent(), [{ a: 2, sid: 8 }]);
});

test("a refusal that cannot travel is none, and its turn is over all the same", async () => {
    const port = await connect({
        maxMessageBytes: 500,
        onRequest: async ({ q }) => {
            throw new psession.RefusedError(q === 1 ? "x".repeat(1000) : "half \ud83d");
        },
    });
    for (const q of [1, 2]) last().say(question(q, q, { q, _end: true }));
    await settle(clock);
    assert.deepEqual([sent(), port.statistics().open], [[], 0]);
    for (const q of [1, 2]) last().say(question(q, q, { q, _end: true }));
    await settle(clock);
    assert.deepEqual(sent().map(({ _re, _error }) => [_re, _error]), [[1, "forgotten"], [2, "forgotten"]]);
});

test("a question that runs is joined by its copy, and given up its handler is told", async () => {
    let context;
    const port = await connect({
        onRequest: (_, given) => {
            context = given;
            return new Promise((resolve) => given.signal.addEventListener("abort", () => resolve({ late: true })));
        },
    });
    last().say(question(7, 1, { _end: true }));
    await clock.advance(2);
    last().say(question(7, 1, { _end: true }));
    assert.deepEqual(sent(), [{ sid: 7, _re: 1, _wait: 2, _life: 500 }]);
    last().say({ sid: 7, _turn: 1, _error: "cancelled", _end: true, _life: 500 });
    await settle(clock);
    assert.equal(context.signal.aborted, true);
    assert.match(context.signal.reason.message, /the peer gave the turn up/);
    assert.deepEqual(sent(), [{ sid: 7, _re: 1, _error: "ended", _end: true, _life: 500 }]);
    assert.deepEqual([port.statistics().givenUp, port.statistics().open, lines], [1, 0, []]);
});

test("a handler is told when the time of its asker is over", async () => {
    const reasons = [];
    const wait = (signal) =>
        new Promise((_, reject) => {
            signal.addEventListener("abort", () => {
                reasons.push([seconds(), signal.reason.constructor.name]);
                reject(signal.reason);
            });
        });
    const port = await connect({
        onRequest: (_, { signal }) => wait(signal),
        onSession: (session) => wait(session.signal),
    });
    last().say(question(7, 1, { _end: true, _wait: 3 }));
    last().say(question(8, 2, { _wait: 4 }));
    await clock.advance(5);
    assert.deepEqual(reasons, [[3, "CancelError"], [4, "CancelError"]]);
    assert.deepEqual([sent(), lines, port.statistics().open], [[], [], 0]);
});

test("what a handler throws is told as a refusal, or as a crash that is logged within a budget", async () => {
    const { RefusedError } = psession;
    const port = await connect({
        onRequest: async ({ how }) => {
            if (how === "refuse") throw new RefusedError("it is locked", { code: "locked" });
            if (how === "nothing") return undefined;
            throw new TypeError("a secret");
        },
    });
    last().say(question(1, 1, { how: "refuse", _end: true }));
    last().say(question(2, 2, { how: "nothing", _end: true }));
    await settle(clock);
    const errors = () => sent().map(({ _re, _error, _end }) => [_re, _error, _end]);
    assert.deepEqual(errors(), [[1, "refused.locked: it is locked", true], [2, "unanswered", true]]);
    assert.deepEqual(lines.splice(0).map(([level]) => level), ["warn"]); // that a handler returned nothing, once
    assert.equal(port.statistics().open, 0);
    for (let n = 3; n < 10; n++) last().say(question(n, n, { _end: true }));
    await settle(clock);
    assert.deepEqual(new Set(errors().map(([, error]) => error)), new Set(["crashed"]));
    assert.deepEqual(lines.splice(0).map(([level, , error]) => [level, error.message]), Array(3).fill(["error", "a secret"]));
    assert.equal(port.statistics().crashed, 7);
    await clock.advance(30);
    last().say(question(10, 10, { _end: true }));
    await settle(clock);
    assert.match(lines[0][1], /and 4 times more since the last such line/);
    assert.throws(() => new RefusedError("", { code: "a code" }), RangeError);
});

test("an asker is told what a handler crashed with where debug says so", async () => {
    await connect({ debug: true, onRequest: () => assert.fail("oops") });
    last().say(question(1, 1, { _end: true }));
    await settle(clock);
    assert.match(sent()[0]._error, /^crashed: AssertionError.*oops/);
});

test("a generator gives a stream its parts as there is room, and a request the first", async () => {
    let made = 0;
    let left = 0;
    async function* onRequest({ count }) {
        try {
            for (let n = 1; n <= count; n++) {
                made = n;
                yield { n };
            }
        } finally {
            left += 1;
        }
    }
    const port = await connect({ onRequest });
    last().say(question(7, 1, { count: 5, _credit: 2, _part: 1, _end: true }));
    await settle(clock);
    assert.deepEqual(sent().map(({ n, _part }) => [n, _part]), [[1, 1], [2, 2]]);
    assert.equal(made, 3);
    last().say({ sid: 7, _turn: 1, _credit: 9, _life: 500 });
    await settle(clock);
    assert.deepEqual(sent().map(({ n, _part, _end }) => n ?? [_part, _end]), [3, 4, 5, [6, true]]);
    last().say(question(8, 2, { count: 5, _end: true }));
    await settle(clock);
    assert.deepEqual([sent(), left], [[{ n: 1, sid: 8, _re: 2, _life: 500 }], 2]);
    last().say(question(9, 3, { count: 0, _credit: 2, _part: 1, _end: true }));
    last().say(question(10, 4, { count: 0, _end: true }));
    await settle(clock);
    assert.deepEqual(sent().map(({ _re, _part, _end, _error }) => [_re, _part ?? _error, _end]), [
        [3, 1, true],
        [4, "unanswered", true],
    ]);
    assert.deepEqual([left, port.statistics().open, port.statistics().crashed], [4, 0, 0]);
});

test("a generator that nobody listens to any more is left", async () => {
    let left = false;
    async function* onRequest() {
        try {
            for (;;) yield { n: 1 };
        } finally {
            left = true;
        }
    }
    const port = await connect({ onRequest });
    last().say(question(7, 1, { _credit: 2, _part: 1, _end: true }));
    await settle(clock);
    last().say({ sid: 7, _turn: 1, _error: "ended", _end: true, _life: 500 });
    await settle(clock);
    assert.deepEqual([left, lines, port.statistics().open], [true, [], 0]);
});

test("a plain answer to a stream is its only reply and its end", async () => {
    await connect({ onRequest: ({ empty }) => (empty ? {} : { a: 1 }) });
    last().say(question(7, 1, { _credit: 2, _part: 1, _end: true }));
    last().say(question(8, 2, { empty: true, _credit: 2, _part: 1, _end: true }));
    await settle(clock);
    assert.deepEqual(sent(), [
        { a: 1, sid: 7, _re: 1, _part: 1, _end: true, _life: 500 },
        { sid: 8, _re: 2, _part: 1, _life: 500 },
        { sid: 8, _re: 2, _part: 2, _end: true, _life: 500 },
    ]);
});

test("a session's handler streams, asks back and ends, in one dialogue", async () => {
    const port = await connect({
        onSession: async (session) => {
            for await (const { ask, count } of session) {
                for (let n = 0; n < (count ?? 0); n++) await session.post({ n });
                if (ask) await session.post(await session.send({ question: ask }));
            }
        },
    });
    last().say(question(7, 1, { count: 2, _credit: 32, _part: 1 }));
    await settle(clock);
    assert.deepEqual(sent().map(({ n, _part, _end }) => [n, _part, _end]), [
        [0, 1, undefined],
        [1, 2, undefined],
        [undefined, 3, true],
    ]);
    last().say({ ask: "who", sid: 7, _turn: 2, _life: 500 });
    await settle(clock);
    const [{ _turn: back, ...asked }] = sent();
    assert.deepEqual(asked, { question: "who", sid: 7, _re: 2, _wait: 60, _life: 500 });
    last().say({ name: "anna", sid: 7, _re: back, _turn: 3, _life: 500 });
    await settle(clock);
    assert.deepEqual(sent(), [{ name: "anna", sid: 7, _re: 3, _life: 500 }]);
    assert.equal(port.statistics().open, 1);
    last().say({ sid: 7, _turn: 3, _error: "ended", _end: true, _life: 500 });
    await settle(clock);
    assert.deepEqual([port.statistics().open, lines], [0, []]);
});

test("what a session's handler does wrong is logged, and ends its session alone", async () => {
    const port = await connect({
        onSession: (session) => (session.sid === 1 ? undefined : session.sid === 2 ? Promise.resolve(5) : Promise.reject(7)),
    });
    for (const sid of [1, 2, 3]) last().say(question(sid, sid));
    await settle(clock);
    assert.deepEqual(sent().map(({ _re, _error }) => [_re, _error]).sort(), [[1, "crashed"], [2, "unanswered"], [3, "crashed"]]);
    const words = lines.map(([level, text]) => `${level} ${text}`).join("\n");
    for (const part of [/error .*session 1/, /warn .*session 2, which nobody gets/, /error .*session 3/]) assert.match(words, part);
    assert.equal(port.statistics().open, 0);
});

test("on the classic wire a request is answered under its number, and a crash is silence", async () => {
    const port = await connect({ dialect: "classic", onRequest: async ({ q }) => (q ? { a: q } : Promise.reject(new Error("no")))});
    for (const message of [{ q: 1, sid: 1 }, { q: 0, sid: 2 }, { q: 1, sid: 1 }]) last().say(message);
    await settle(clock);
    assert.deepEqual(sent(), [{ a: 1, sid: 1 }, { a: 1, sid: 1 }]);
    const { open, crashed, accepted } = port.statistics();
    assert.deepEqual([open, crashed, accepted, lines.length], [0, 1, 3, 1]);
});

test("a request on the classic wire is told when its port is closed, and not before", async () => {
    let signal;
    const port = await connect({
        dialect: "classic",
        onRequest: (_, context) => {
            ({ signal } = context);
            return new Promise(() => {});
        },
    });
    last().say({ sid: 1 });
    await settle(clock);
    assert.equal(signal.aborted, false);
    await port.close();
    assert.equal(signal.reason.constructor, psession.PortClosedError);
});

test("messages that are no session's are given to onMessage one at a time", async () => {
    const seen = [];
    const port = await connect({
        inboxLimit: 3,
        onMessage: async ({ n }) => {
            seen.push(n);
            if (n === 2) throw new Error("oops");
            if (n < 10) await new Promise((resolve) => clock.after(1, resolve));
        },
    });
    for (let n = 0; n < 6; n++) last().say({ n });
    last().say([1, 2]); // no object: the application's own as well
    await settle(clock);
    assert.deepEqual(seen, [0]);
    await clock.advance(10);
    assert.deepEqual(seen, [0, 1, 2, 3]);
    const { plain, overrun, crashed, heldBytes } = port.statistics();
    assert.deepEqual([plain, overrun, crashed, heldBytes], [7, 3, 1, 0]);
    await port.post({ hello: 1 });
    assert.deepEqual(sent(), [{ hello: 1 }]);
    await assert.rejects(port.post({ sid: 1 }), psession.MalformedMessageError);
});

test("the fields may have other names, and a question other marks", async () => {
    const asked = [];
    const port = await connect({
        sessionIdName: "id",
        fields: { turn: "t", re: "r", life: "l" },
        sessionIds: { first: 1, last: 9 },
        onRequest: (message) => (asked.push(message), null),
    });
    outcome(port.request({ _turn: "mine" }));
    const [{ l, ...message }] = sent();
    assert.deepEqual(message, { _turn: "mine", id: 1, t: 1, _new: true, _end: true, _wait: 60 });
    last().say({ method: "ask", id: 1 }); // where the number is called "id" the rule is that of JSON-RPC
    await settle(clock);
    assert.deepEqual(asked, [{ method: "ask" }]);
});

test("what fell out of the memory of the peer's turns is never run again", async () => {
    let runs = 0;
    await connect({ maxAnswerBytes: 1, onRequest: () => ({ run: ++runs }) });
    const many = 513 * 256;
    for (let n = 0; n < many; n += 256) last().say(question(n + 1, n + 1, { _end: true }));
    sent();
    last().say(question(1, 1, { _end: true })); // its page fell out
    last().say(question(257, 257, { _end: true })); // its page did not
    last().say(question(2, many, { _end: true }));
    assert.deepEqual(sent().map(({ _re, _error, run }) => [_re, _error ?? run]), [
        [1, "forgotten"],
        [257, "forgotten"],
        [many, 514],
    ]);
    assert.equal(runs, 514);
});

// -- limits -----------------------------------------------------------------------------------------------------------

test("a session that is flooded ends alone, and lets go of what it held", async () => {
    const sessions = [];
    const port = await connect({
        inboxLimit: 2,
        maxHeldBytes: 1000,
        onSession: async (session) => {
            sessions.push(session);
            await new Promise((resolve) => session.signal.addEventListener("abort", resolve));
        },
    });
    for (const n of [0, 1, 2]) last().say({ n, sid: 1 });
    last().say({ n: 0, sid: 2 });
    await settle(clock);
    assert.deepEqual([sessions[0].closed, sessions[1].closed], [true, false]);
    await assert.rejects(sessions[0].receive(), psession.OverrunError);
    last().say({ text: "x".repeat(2000), sid: 2 });
    await settle(clock);
    assert.deepEqual([sessions[1].closed, port.statistics().overrun], [true, 2]);
    last().say({ text: "x".repeat(900), sid: 3 });
    await settle(clock);
    assert.deepEqual(await sessions[2].receive({ timeout: 0 }), { text: "x".repeat(900) });
});

test("as many sessions of the peer's are at work as may be, and one that is idle makes room", async () => {
    const port = await connect({
        maxIncomingSessions: 2,
        onSession: async (session) => {
            for await (const { hold } of session) if (hold) await new Promise(() => {});
        },
    });
    last().say(question(1, 1, { hold: true }));
    last().say(question(2, 2));
    await settle(clock);
    last().say(question(3, 3, { hold: true }));
    await settle(clock);
    assert.deepEqual([port.statistics().recycled, port.statistics().incoming], [1, 2]);
    sent();
    last().say(question(4, 4));
    await settle(clock);
    assert.deepEqual(sent().map(({ _re, _error }) => [_re, _error]), [[4, "refused.full"]]);
    assert.equal(port.statistics().refused, 1);
});

test("a handler at work is not idle, one that waits for its peer or for credit is", async () => {
    const port = await connect({
        sessionMaxLife: 100,
        onRequest: () => new Promise(() => {}),
        onSession: async (session) => {
            for await (const { hold, count } of session) {
                for (let n = 0; n < (count ?? 0); n++) await session.post({ n });
                if (hold) await new Promise(() => {});
            }
        },
    });
    last().say(question(1, 1, { hold: true }));
    last().say(question(2, 2));
    last().say(question(3, 3, { count: 9, _credit: 2, _part: 1 }));
    last().say(question(4, 4, { _end: true }));
    await clock.advance(60);
    sent();
    last().say({ sid: 3, _turn: 3, _credit: 4, _life: 500 });
    await clock.advance(50);
    assert.deepEqual([port.statistics().expired, port.statistics().incoming], [1, 3]); // the one that waits for its peer
    assert.deepEqual(sent().flatMap(({ n }) => n ?? []), [2, 3]);
    await clock.advance(60);
    assert.deepEqual([port.statistics().expired, port.statistics().incoming], [2, 2]);
    assert.deepEqual([sent().map(({ _re, _error }) => [_re, _error]), lines], [[[3, "unanswered"]], []]);
});

test("handlers that are done make room for others", async () => {
    const onSession = async (session) => session.post({ a: (await session.receive()).q });
    const port = await connect({ maxIncomingSessions: 2, onRequest: async ({ q }) => ({ a: q }), onSession });
    for (let n = 1; n < 20; n++) {
        last().say(question(n, n, n % 2 ? { q: n } : { q: n, _end: true }));
        await settle(clock);
        assert.deepEqual(sent().map(({ a }) => a).filter(Boolean), [n]);
        if (n % 2) last().say({ sid: n, _turn: n, _error: "ended", _end: true, _life: 500 });
        await settle(clock);
        sent();
    }
    assert.deepEqual([port.statistics().refused, port.statistics().heldBytes], [0, 0]);
});

test("an error of another session's, or after the end, is a crash like any other", async () => {
    const port = await connect({
        onSession: async (session) => {
            const other = port.session();
            other.end();
            await new Promise((resolve) => session.signal.addEventListener("abort", resolve));
            if (session.sid === 1) await other.send({});
            if (session.sid === 2) await session.send({});
            if (session.sid === 3) throw new TypeError("oops");
            if (session.sid === 4) throw new DOMException("aborted", "AbortError");
        },
    });
    for (const sid of [1, 2, 3, 4]) last().say(question(sid, sid));
    await settle(clock);
    for (const sid of [1, 2, 3, 4]) last().say({ sid, _turn: sid, _error: "cancelled", _life: 500 });
    await settle(clock);
    assert.deepEqual(lines.map(([, , error]) => error.constructor.name).sort(), ["InvalidError", "TypeError"]);
});

test("where much is queued already progress is not said, but what the peer cannot recover is", async () => {
    await connect({ maxQueuedBytes: 10, onRequest: ({ q }) => (q ? new Promise(() => {}) : assert.fail("no")), logger: null });
    last().bufferedAmount = 1e6;
    for (const n of [1, 2]) last().say(question(n, n, { q: 0, _end: true }));
    last().say(question(3, 3, { q: 1, _end: true }));
    await settle(clock);
    last().say(question(3, 3, { q: 1, _end: true }));
    last().bufferedAmount = 0;
    await clock.advance(0.1);
    assert.deepEqual(sent().map(({ _re, _error }) => [_re, _error]), [[1, "crashed"], [2, "crashed"]]);
});

test("the parts of a stream wait for room as posts do, and a grant that waits is replaced by the next", async () => {
    const port = await connect({
        maxQueuedBytes: 150,
        async *onRequest({ count }) {
            for (let n = 1; n <= count; n++) yield { n, text: "x".repeat(60) };
        },
    });
    last().bufferedAmount = 1e6;
    last().say(question(7, 1, { count: 4, _credit: 32, _part: 1, _end: true }));
    await settle(clock);
    assert.equal(port.statistics().queuedBytes < 300, true);
    last().bufferedAmount = 0;
    await clock.advance(0.1);
    assert.deepEqual(sent().map(({ n, _end }) => n ?? _end), [1, 2, 3, 4, true]);
    const replies = port.stream({}, { credit: 2 });
    outcome(replies.next());
    await settle(clock);
    const [{ sid, _turn, _life }] = sent();
    last().bufferedAmount = 1e6;
    for (const n of [1, 2]) last().say({ n, sid, _re: _turn, _part: n, _life });
    await settle(clock);
    await outcomeOf(replies.next());
    last().bufferedAmount = 0;
    await clock.advance(0.1);
    assert.deepEqual(sent().map(({ _credit }) => _credit), [4]);
});

test("a stream that is given up while it waits for room is told so", async () => {
    let failed;
    const port = await connect({
        maxQueuedBytes: 10,
        onSession: async (session) => {
            await session.receive();
            await session.post({ n: 1 });
            await session.post({ n: 2 }).catch((error) => (failed = error));
        },
    });
    last().bufferedAmount = 1e6;
    last().say(question(7, 1, { _credit: 32, _part: 1 }));
    await settle(clock);
    last().say({ sid: 7, _turn: 1, _error: "cancelled", _life: 500 });
    await settle(clock);
    assert.match(failed.message, /the peer gave the turn up/);
    assert.equal(port.statistics().open, 0);
});

test("requests at work hold no more than there is room for", async () => {
    const port = await connect({ maxHeldBytes: 2000, onRequest: () => new Promise(() => {}) });
    for (const n of [1, 2]) last().say(question(n, n, { text: "x".repeat(1200), _end: true }));
    await settle(clock);
    assert.deepEqual([sent().map(({ _re, _error }) => [_re, _error]), port.statistics().overrun], [[[2, "overrun"]], 1]);
});

test("what waits for a socket that is full can be withdrawn, and posts wait for room", async () => {
    const port = await connect({ maxQueuedBytes: 100, maxHeldBytes: 300 });
    const session = port.session();
    last().bufferedAmount = 1e6;
    const gone = outcome(port.request({ gone: true }, { timeout: 1 }));
    const first = outcome(session.post({ text: "x".repeat(90) }));
    const [second, third] = [outcome(session.post({ n: 2 })), outcome(session.post({ n: 3 }))];
    await clock.advance(1);
    assert.deepEqual([gone.error.outcome, gone.error.message.includes("the channel took nothing")], ["not_sent", true]);
    assert.deepEqual([first.isOver, second.isOver, sent()], [true, false, []]);
    const most = outcome(session.post({ text: "x".repeat(300) }));
    await settle(clock);
    assert.deepEqual([most.error.constructor, port.statistics().unread], [psession.OverrunError, 1]);
    last().bufferedAmount = 0;
    await clock.advance(0.01);
    assert.deepEqual([second.isOver, third.isOver], [true, true]);
    assert.deepEqual(sent().map(({ n, text, gone: isGone }) => n ?? text?.length ?? isGone), [90, 2, 3]);
});

test("posts that wait for room when their session or port ends are told so", async () => {
    const port = await connect({ maxQueuedBytes: 10 });
    const [one, other] = [port.session(), port.session()];
    last().bufferedAmount = 1e6;
    await one.post({ text: "x".repeat(20) });
    const waiting = [outcome(one.post({})), outcome(other.post({}))];
    one.end();
    await settle(clock);
    assert.deepEqual([waiting[0].error.name, waiting[1].isOver], ["InvalidError", false]);
    await port.close();
    await settle(clock);
    assert.equal(waiting[1].error.name, "PortClosedError");
});

test("what cannot be read is counted, and said once with what would be right", async () => {
    const port = await connect({ maxMessageBytes: 100, onMessage: () => {} });
    const bytes = new TextEncoder().encode('{"binary": true}').buffer;
    for (const data of ['{"n": a\nb}', "nonsense", '{"n": 1e999}', `{"n": "${"x".repeat(100)}"}`, new Uint8Array([255]).buffer]) {
        last().say(data);
    }
    assert.deepEqual([port.statistics().malformed, lines.length, lines[0][0]], [5, 1, "warn"]);
    assert.match(lines[0][1], /dropped \(malformed\): a message that cannot be read.*\(said once/);
    assert.doesNotMatch(lines[0][1], /\n/);
    last().say(bytes);
    last().say('{"n": 1e10}');
    assert.equal(port.statistics().plain, 2);
});

test("each message that reaches nobody has a reason, and what a bad network may cause is no warning", async () => {
    const { port, life } = await exactPort();
    last().say({ sid: 1, _re: 1, _life: life });
    last().say({ sid: 5, _re: 99, _life: life });
    last().say(question(7, 1));
    last().say({ hello: 1 });
    await settle(clock);
    const { duplicate, unknownSid, noHandler, unheard } = port.statistics();
    assert.deepEqual([duplicate, unknownSid, noHandler, unheard], [1, 1, 1, 1]);
    assert.deepEqual(lines.map(([level]) => level), ["info", "warn", "warn", "warn"]);
    assert.equal(sent()[0]._error, "refused.no_handler");
    const asked = outcome(port.request({}, { timeout: 1 }));
    await clock.advance(1);
    assert.match(asked.error.message, /dropped messages of this peer so far: 1 duplicate, 1 unknownSid, 1 noHandler, 1 unheard/);
});

// -- links ------------------------------------------------------------------------------------------------------------

/** A port that its peer would find again. */
async function resumable(options = {}) {
    const states = [];
    const port = await connect({ resumeWithin: 30, onState: (state) => states.push(state), ...options });
    const [hello] = sent();
    assert.deepEqual(Object.keys(hello), ["_new", "_life"]);
    last().say({ _port: "peer 1", _life: 900, _resume: "secret" });
    await settle(clock);
    assert.deepEqual(sent(), []);
    return { port, states, life: hello._life };
}

const welcome = (_life = 900) => ({ _port: "peer 1", _life, _resume: "secret" });

test("a link that breaks comes back, and what was on its way is asked again", async () => {
    const { port, states, life } = await resumable();
    const session = port.session();
    const asked = outcome(session.send({ q: 1 }, { timeout: 100 }));
    const [first] = sent();
    last().lose();
    const later = outcome(session.send({ q: 2 }, { timeout: 100 }));
    const other = outcome(port.request({ q: 3 }, { timeout: 100 }));
    assert.equal(port.connected, false);
    await clock.advance(0.1);
    assert.deepEqual(sent(), [{ _new: true, _life: life, _port: "peer 1", _resume: "secret" }]);
    last().say(welcome());
    await settle(clock);
    const [one, two] = sent();
    assert.deepEqual([one.q, two.q], [3, 1]); // what waited, then what may have been lost
    assert.deepEqual([two._turn, two._wait, two._new], [first._turn, 99.9, true]);
    last().say({ a: 1, sid: two.sid, _re: two._turn, _life: life });
    last().say({ a: 3, sid: one.sid, _re: one._turn, _life: life });
    await settle(clock);
    assert.deepEqual([asked.value, other.value, later.isOver, sent()[0].q], [{ a: 1 }, { a: 3 }, false, 2]);
    assert.deepEqual(states.map(({ state }) => state), ["connecting", "open", "broken", "waiting", "connecting", "open"]);
    assert.deepEqual([states.at(-1).known, port.statistics().resumed, port.connected], [true, 1, true]);
});

test("a peer that lost its memory fails what it may have begun, and is asked what it has not seen", async () => {
    const { port, life } = await resumable({ onSession: () => new Promise(() => {}) });
    const begun = outcome(port.request({ q: 1 }));
    const listening = outcome(port.stream({ q: 2 }).next());
    last().say(question(7, 1));
    await settle(clock);
    sent();
    last().lose();
    const fresh = outcome(port.request({ q: 3 }));
    await clock.advance(0.1);
    sent();
    last().say(welcome(901));
    await settle(clock);
    for (const { error } of [begun, listening]) {
        assert.deepEqual([error.constructor, error.outcome], [psession.AbortError, "sent"]);
        assert.match(error.message, /has lost its memory/);
    }
    assert.deepEqual([sent().flatMap(({ q }) => q ?? []), fresh.isOver], [[3], false]);
    last().say(welcome(901)); // once more
    assert.equal(fresh.isOver, false);
    last().say(welcome(902)); // somebody else answers on the link that stands
    await settle(clock);
    assert.equal(fresh.error.constructor, psession.AbortError);
    const { forgotten, incoming, aborted } = port.statistics();
    assert.deepEqual([forgotten, incoming, aborted], [2, 0, 3]);
    assert.ok(life);
});

test("an answer that was lost with its link is sent again when its question is", async () => {
    let runs = 0;
    const port = (await resumable({ onRequest: async () => ({ run: ++runs }) })).port;
    last().say(question(7, 1, { _end: true }));
    await settle(clock);
    const [answer] = sent();
    last().lose();
    await clock.advance(0.1);
    sent();
    last().say(welcome());
    last().say(question(7, 1, { _end: true }));
    await settle(clock);
    assert.deepEqual([sent(), runs, port.statistics().repeated], [[answer], 1, 1]);
});

test("the next try comes later after each failure, and the port ends when its time is over", async () => {
    const { port, states } = await resumable();
    const asked = outcome(port.request({}));
    opens = "fails";
    last().lose(1006, "no route");
    await clock.advance(60);
    const tries = sockets.slice(1).map(({ made }) => Math.round(made * 10) / 10);
    assert.deepEqual([tries, asked.at], [[0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 12.7, 25.5], 30]);
    assert.deepEqual([port.closed, asked.error.constructor], [true, psession.PortClosedError]);
    assert.match(asked.error.message, /did not come back within 30 s \(resumeWithin\)/);
    assert.match(asked.error.cause.message, /code 1006/);
    assert.deepEqual([states.at(-1).state, clock.size], ["closed", 0]);
    const told = states.slice(2, 8).map(({ state, attempt, delay, error }) => [state, attempt, delay.toFixed(1), error?.code]);
    assert.deepEqual(told, [
        ["broken", 0, "0.0", 1006],
        ["waiting", 1, "0.1", 1006],
        ["connecting", 1, "0.0", 1006],
        ["waiting", 2, "0.2", 1006],
        ["connecting", 2, "0.0", 1006],
        ["waiting", 3, "0.4", 1006],
    ]);
    await assert.rejects(port.request({}), { name: "PortClosedError", outcome: "not_sent" });
});

test("a link that stood for long is tried again soon, and one that did not, later", async () => {
    const { port, states } = await resumable({ maxDelay: 10, resumeWithin: 1000 });
    const breaks = async (stood) => {
        await clock.advance(stood);
        last().lose(1001); // a server that is started anew says no more
        const { state, delay } = states.at(-1);
        await clock.advance(delay);
        last().say(welcome());
        await settle(clock);
        assert.deepEqual([state, port.connected, states.at(-1).error], ["waiting", true, undefined]);
        return Math.round(delay * 10) / 10;
    };
    const waits = [];
    for (const stood of [1, 1, 9.9, 10, 1]) waits.push(await breaks(stood));
    assert.deepEqual(waits, [0.1, 0.2, 0.4, 0.1, 0.2]);
});

test("a peer that knows no welcome has not kept anything either", async () => {
    const port = await connect({ resumeWithin: 30 });
    await clock.advance(6);
    assert.deepEqual(sent().map(({ _new }) => _new), Array(10).fill(true)); // for five seconds
    const asked = outcome(port.request({ n: 1 }));
    sent();
    last().lose();
    await clock.advance(0.1);
    last().say({ news: 1 });
    await clock.advance(4.9);
    assert.equal(port.connected, false);
    await clock.advance(0.1);
    assert.deepEqual([port.connected, asked.error.constructor, port.statistics().unheard], [true, psession.AbortError, 1]);
});

test("the real clock waits for as long as it is told, though setTimeout cannot", async () => {
    const { setTimeout } = globalThis;
    const set = [];
    globalThis.setTimeout = (callback, time) => set.push({ callback, time });
    try {
        let called = 0;
        realClock.after(30 * 24 * 3600, () => called++);
        realClock.after(Infinity, () => called++);
        realClock.after(-1, () => called++);
        const times = [];
        for (const { callback, time } of set) {
            times.push(time);
            callback();
        }
        assert.deepEqual([times, called], [[2 ** 31 - 1, 0, 30 * 24 * 3600 * 1000 - (2 ** 31 - 1)], 2]);
    } finally {
        globalThis.setTimeout = setTimeout;
    }
    const before = realClock.now();
    await new Promise((resolve) => realClock.after(0.02, resolve));
    const took = realClock.now() - before;
    assert(took > 0.015 && took < 5, `${took} s`);
});

test("a try that takes too long is given up, and one that is welcomed late is none the worse", async () => {
    const { port } = await resumable({ connectTimeout: 2 });
    opens = false;
    last().lose();
    await clock.advance(0.1);
    const slow = last();
    await clock.advance(2);
    assert.equal(slow.isClosed, true);
    await clock.advance(0.2);
    last().open();
    await clock.advance(1.2);
    assert.deepEqual(sent().map(({ _new }) => _new), [true, true, true]); // said again each half second
    last().say({ news: 1 });
    last().say(welcome());
    await settle(clock);
    assert.deepEqual([port.connected, port.statistics().unheard], [true, 1]);
});

test("a peer that says much and no welcome is left, and tried again later", async () => {
    const { port } = await resumable();
    last().lose();
    await clock.advance(0.1);
    const chatty = last();
    for (let n = 0; n < 1025; n++) chatty.say({ n });
    assert.deepEqual([chatty.isClosed, port.connected], [true, false]);
    await clock.advance(0.2);
    last().say("x".repeat(2 ** 20 + 1));
    await clock.advance(0.4);
    assert.equal(sockets.length, 4);
});

test("a peer that left for good, or a port without resumeWithin, ends with its link", async () => {
    const { port } = await resumable();
    last().say({ _end: true, _life: 900 });
    last().lose(1000);
    assert.equal(port.closed, true);
    for (const [code, reason, clean] of [[1000, "", true], [1001, "", true], [1005, "", true], [1006, "", false], [4000, "bye", false]]) {
        const plain = await connect({ onSession: async (session) => assert.equal((await session[Symbol.asyncIterator]().next()).done, clean) });
        const asked = outcome(plain.request({}));
        const closed = outcome(plain.waitClosed());
        last().lose(code, reason);
        await settle(clock);
        assert.deepEqual([asked.error.constructor, closed.isOver], [psession.PortClosedError, true]);
        assert.equal(asked.error.cause === undefined, clean);
        if (reason) assert.match(asked.error.message, /code 4000, "bye"/);
    }
});

test("a silent peer is asked for a sign of life, and without one its link is broken", async () => {
    const { port } = await resumable({ keepaliveInterval: 20, keepalivePatience: 5, resumeWithin: 1000 });
    await clock.advance(20);
    assert.deepEqual(sent().map(({ _wait }) => _wait), [5]);
    last().say({ _life: 900 });
    await clock.advance(24.9);
    assert.deepEqual([port.connected, sent().length], [true, 1]);
    await clock.advance(0.2);
    assert.equal(port.connected, false);
    last().say({ _wait: 5, _life: 900 });
    await clock.advance(1);
    last().say(welcome());
    sent();
    last().say({ _wait: 3, _life: 900 });
    assert.deepEqual(Object.keys(sent()[0]), ["_life"]);
});

test("an endless patience asks for no sign of life", async () => {
    const { port } = await exactPort({ keepaliveInterval: 20, keepalivePatience: Infinity });
    await clock.advance(100);
    assert.deepEqual([sent(), port.closed], [[], false]);
});

test("a payload that is spoilt while its link is down fails its turn", async () => {
    const { port } = await resumable();
    const payload = { n: 1 };
    const asked = outcome(port.request(payload));
    sent();
    last().lose();
    payload.n = NaN;
    await clock.advance(0.1);
    last().say(welcome());
    await settle(clock);
    assert.deepEqual([asked.error.constructor, port.connected], [psession.MalformedMessageError, true]);
});

test("a peer that is not exact, or a link that is down, is not asked for a sign of life", async () => {
    const port = await connect({ keepaliveInterval: 20, keepalivePatience: 5 });
    await clock.advance(50);
    assert.deepEqual([sent(), port.connected], [[], true]);
    const asked = outcome(port.request({}));
    const [{ sid, _turn, _life }] = sent();
    last().say({ sid, _re: _turn, _life });
    await clock.advance(20);
    assert.deepEqual([asked.value, sent().map(({ _wait }) => _wait)], [{}, [5]]);
    await clock.advance(5);
    assert.deepEqual([port.closed, last().isClosed], [true, true]);
    assert.match((await outcomeOf(port.request({}))).error.message, /no sign of life for 25 s \(keepalive\)/);
});

test("a port that is drained takes no new sessions, waits for those there are, and says so", async () => {
    const finish = [];
    const options = { onRequest: () => new Promise((resolve) => finish.push(resolve)), logger: null };
    const { port, life } = await exactPort(options);
    last().say(question(1, 1, { _end: true }));
    const asked = outcome(port.request({ q: 1 }));
    const [{ sid, _turn }] = sent();
    const drained = outcome(port.drain());
    assert.deepEqual(sent(), [{ _turn: 1, _end: true, _life: life }]);
    last().say(question(2, 2, { _end: true }));
    await settle(clock);
    assert.deepEqual([sent().map(({ _error }) => _error), port.statistics().closing], [["refused.closing"], 1]);
    await assert.rejects(port.request({}), /no new session: the port is being drained/);
    last().say({ a: 1, sid, _re: _turn, _life: life });
    await settle(clock);
    assert.deepEqual([asked.value, drained.isOver], [{ a: 1 }, false]);
    finish[0]({ done: true });
    await settle(clock);
    assert.deepEqual([drained.value, port.closed, sent().map(({ done }) => done)], [true, true, [true]]);
    await assert.rejects(port.drain(), psession.PortClosedError);
    const late = await connect(options);
    last().say({ sid: 5 });
    last().say({ sid: 6 });
    const cut = outcome(late.drain({ timeout: 7 }));
    last().say({ sid: 7 });
    await clock.advance(7);
    assert.deepEqual([cut.value, cut.at, late.statistics().closing], [false, 7, 1]);
    const idle = await connect();
    assert.equal((await outcomeOf(idle.drain())).value, true);
});

test("a stream goes on where its link broke, each part once", async () => {
    const { port, life } = await resumable();
    const got = [];
    outcome((async () => {
        for await (const { n } of port.stream({})) got.push(n);
    })());
    await settle(clock);
    const [{ sid, _turn }] = sent();
    const part = (n) => last().say({ n, sid, _re: _turn, _part: n, _life: life });
    part(1);
    part(2);
    last().lose();
    await clock.advance(0.1);
    sent();
    last().say(welcome());
    await settle(clock);
    assert.deepEqual(sent().map((message) => [message._turn, message._part]), [[_turn, 3]]);
    part(2);
    part(3);
    await settle(clock);
    assert.deepEqual(got, [1, 2, 3]);
});

test("a link that does not open rejects, with what was wrong, and leaves nothing behind", async () => {
    opens = false;
    const failed = outcome(connect());
    await settle(clock);
    last().onerror({ message: "connection refused" });
    await settle(clock);
    assert.deepEqual([failed.error.constructor, clock.size], [psession.PortClosedError, 0]);
    assert.match(failed.error.message, /the WebSocket did not open: connection refused/);
    const slow = outcome(connect({ connectTimeout: 3 }));
    await clock.advance(3);
    assert.match(slow.error.message, /not open after 3 s \(connectTimeout\)/);
    const patient = outcome(connect({ resumeWithin: 2 }));
    for (let at = 0; at < 19; at++) {
        await clock.advance(0.1);
        last().lose();
    }
    await clock.advance(1);
    assert.match(patient.error.message, /there was no link within 2 s \(resumeWithin\)/);
    const controller = new AbortController();
    const aborted = outcome(connect({ resumeWithin: 2, signal: controller.signal }));
    await settle(clock);
    controller.abort("never mind");
    await settle(clock);
    assert.deepEqual([aborted.error, last().isClosed, clock.size], ["never mind", true, 0]);
    await assert.rejects(psession.connect("http://peer", { WebSocket: Socket, clock }), SyntaxError);
    assert.equal(clock.size, 0);
});

test("closing gives each waiter an error of its own, says goodbye, and leaves no timer", async () => {
    const { port } = await resumable({ onSession: async (session) => session.receive(), grace: 2 });
    const session = port.session();
    const waiting = [port.request({}), session.send({}), session.send({}), session.receive()].map(outcome);
    const listening = outcome(port.stream({}).next());
    last().say(question(7, 1));
    await settle(clock);
    sent();
    const closed = outcome(port.close());
    outcome(port.close());
    await settle(clock);
    for (const { error } of [...waiting.slice(0, 3), listening]) assert.equal(error.constructor, psession.AbortError);
    assert.equal(waiting[3].error.constructor, psession.PortClosedError);
    const words = sent().map(({ _error, _end }) => _error ?? _end);
    assert.deepEqual([words.at(-1), words.includes("closed")], [true, true]);
    assert.deepEqual([closed.isOver, port.closed, last().code, clock.size], [true, true, 1000, 0]);
    for (const call of [() => port.request({}), () => port.post({}), () => session.send({})]) {
        await assert.rejects(call(), { name: "PortClosedError" });
    }
    assert.throws(() => port.session(), psession.PortClosedError);
});

test("closing takes no longer than its grace, without a link no time at all", async () => {
    const { port } = await resumable({ grace: 2 });
    last().close = () => {}; // a peer that does not answer
    const closed = outcome(port.close());
    await clock.advance(1.9);
    assert.equal(closed.isOver, false);
    await clock.advance(0.1);
    assert.equal(closed.isOver, true);
    const { port: other } = await resumable();
    last().lose();
    assert.equal((await outcomeOf(other.close())).isOver, true);
    assert.equal(clock.size, 0);
});

test("whoever leaves the page leaves the port, or its link where the page may come back", async () => {
    const listeners = new Set();
    globalThis.addEventListener = (_, listener) => listeners.add(listener);
    globalThis.removeEventListener = (_, listener) => listeners.delete(listener);
    try {
        for (const [options, persisted, goes] of [
            [{ resumeWithin: 30 }, true, "on"],
            [{ resumeWithin: 30 }, false, "away"],
            [{}, true, "away"],
        ]) {
            const port = await connect(options);
            last().say(welcome());
            const asked = outcome(port.request({}));
            const link = last();
            for (const leave of listeners) leave({ persisted });
            await settle(clock);
            assert.deepEqual([link.isClosed, port.closed, asked.isOver], [true, goes === "away", goes === "away"]);
            if (goes === "away") assert.match(asked.error.message, /the page was left/);
            else await port.close();
            assert.equal(listeners.size, 0);
        }
    } finally {
        delete globalThis.addEventListener;
        delete globalThis.removeEventListener;
    }
});

test("what the user's own functions throw is logged, and harms nobody else", async () => {
    const port = await connect({
        dialect: "classic",
        onState: () => assert.fail("state"),
        isQuestion: () => assert.fail("question"),
        onMessage: () => assert.fail("message"),
    });
    last().say({ sid: 1 });
    last().say({ n: 1 });
    assert.deepEqual(lines.map(([, text]) => text.match(/: (\w+) threw/)[1]), ["onState", "onState", "isQuestion", "onMessage"]);
    assert.equal(port.statistics().crashed, 4);
});

test("ports and sessions are made by their owners alone", async () => {
    assert.throws(() => new psession.Port({}), /connect/);
    assert.throws(() => new psession.Session({}), /port\.session/);
    for (const [name, kind] of Object.entries(psession)) {
        if (name.endsWith("Error")) assert.deepEqual([new kind("why").name, new kind("why") instanceof psession.SessionError], [name, true]);
    }
});

// -- running them -----------------------------------------------------------------------------------------------------

const results = {};
for (const [name, run] of Object.entries(cases)) {
    [clock, sockets, opens, lines, ports] = [new VirtualClock(), [], true, [], []];
    await clock.advance(START);
    try {
        await run();
        for (const port of ports) {
            outcome(port.close());
            await clock.advance(10);
            const { open, queuedBytes } = port.statistics();
            assert.deepEqual([open, queuedBytes], [0, 0]);
        }
        assert.equal(clock.size, 0, "timers are left");
        results[name] = null;
    } catch (error) {
        results[name] = error.stack;
    }
}
console.log(JSON.stringify(results));
