// The wire vectors, told step by step to a port of clients/js over a socket and a clock that the story holds.
//
//   node vectors.mjs < VECTORS          VECTORS: {name: vector}, as in tests/vectors; prints {name: null or what was wrong}
import assert from "node:assert/strict";
import * as psession from "../../clients/js/psession.js";
import { VirtualClock, settle } from "./virtual.mjs";

const ERRORS = {
    timeout: psession.TimeoutError,
    cancel: psession.CancelError,
    abort: psession.AbortError,
    invalid: psession.InvalidError,
    overrun: psession.OverrunError,
    remote: psession.RemoteError,
    malformed: psession.MalformedMessageError,
};
const STRAYS = {
    late: ["late"],
    duplicate: ["duplicate"],
    unknown_sid: ["unknownSid", "noHandler", "noSession"],
    other_life: ["staleOwn", "stalePeer"],
    malformed: ["malformed"],
    repeated: ["repeated"],
    given_up: ["givenUp"],
};
const OPTIONS = {
    session_timeout: "timeout",
    session_id_name: "sessionIdName",
    session_id_rest: "sessionIdRest",
    on_session_overflow: "onSessionOverflow",
    on_unanswered: "onUnanswered",
    max_answer_bytes: "maxAnswerBytes",
    max_incoming_sessions: "maxIncomingSessions",
    retry_count: "retryCount",
    retry_interval: "retryInterval",
};
const PATIENCE = { timeout: "timeout", retry_count: "retryCount", retry_interval: "retryInterval" };
const STREAM = { ...PATIENCE, total: "total", count: "count", credit: "credit" };
const renamed = (step, names) =>
    Object.fromEntries(Object.entries(names).flatMap(([from, to]) => (from in step ? [[to, step[from]]] : [])));

const clock = new VirtualClock();
let wire; // what the port has sent and no step has listed
let socket;

class Socket {
    readyState = 1;
    bufferedAmount = 0;
    constructor() {
        socket = this;
        queueMicrotask(() => this.onopen());
    }
    send(text) {
        wire.push(JSON.parse(text));
    }
    close() {
        queueMicrotask(() => this.onclose?.({ code: 1000, reason: "" }));
    }
}

class Story {
    turns = {}; // name: { value, error, isOver }, and of a stream: got, allowed, replies
    sessions = {};
    opened = [];
    plain = [];
    leaving = new Map();
    known = {};
    parts = {};

    payload(message) {
        const isOurs = (name) => name === this.sidName || name.startsWith("_");
        return Object.fromEntries(Object.entries(message).filter(([name]) => !isOurs(name)));
    }

    filled(message) {
        const fill = (value) => (typeof value === "string" && value in this.known ? this.known[value] : value);
        return Object.fromEntries(Object.entries(message).map(([name, value]) => [name, fill(value)]));
    }

    async handle(session) {
        this.opened.push(session);
        await new Promise((resolve, reject) => this.leaving.set(session, { resolve, reject }));
    }

    ask(name, promise) {
        const turn = (this.turns[name] = { isOver: false });
        promise.then(
            (value) => Object.assign(turn, { value, isOver: true }),
            (error) => Object.assign(turn, { error, isOver: true }),
        );
    }

    async listen(turn) {
        try {
            for (;;) {
                while (turn.got.length >= turn.allowed) await new Promise((resolve) => (turn.more = resolve));
                const { value, done } = await turn.replies.next();
                if (done) break;
                turn.got.push(value);
            }
        } catch (error) {
            turn.error = error;
        }
        turn.isOver = true;
    }

    async do(step) {
        const session = this.sessions[step.session];
        const asker = session ?? this.port;
        switch (step.do) {
            case "open":
                this.sessions[step.session] = this.port.session();
                break;
            case "send":
            case "request":
                this.ask(step.turn, asker[step.do](step.message, renamed(step, PATIENCE)));
                break;
            case "stream": {
                const replies = asker.stream(step.message, renamed(step, STREAM));
                const turn = { got: [], allowed: step.take ?? Infinity, replies, isOver: false };
                this.turns[step.turn] = turn;
                this.listen(turn);
                break;
            }
            case "take": {
                const turn = this.turns[step.turn];
                const before = turn.got.length;
                turn.allowed += step.count;
                turn.more?.();
                await settle(clock);
                assert.deepEqual(turn.got.slice(before), step.gives.map((place) => this.parts[place]));
                break;
            }
            case "stop": {
                const turn = this.turns[step.turn];
                await turn.replies.return();
                turn.isOver = true;
                break;
            }
            case "post":
            case "finish": {
                let failure;
                session[step.do](step.message).catch((error) => (failure = error));
                await settle(clock); // one that waits for credit goes on with the story
                if (failure) throw failure;
                break;
            }
            case "clear":
                this.port.clear();
                break;
            case "leave": {
                const { resolve, reject } = this.leaving.get(session);
                if (step.refused) reject(new psession.RefusedError(step.refused[1], { code: step.refused[0] }));
                else if (step.crashed) reject(new Error(step.crashed));
                else resolve();
                break;
            }
            default:
                session[step.do]();
        }
    }

    out(step) {
        assert(wire.length, "nothing is on the wire");
        const message = wire.shift();
        for (const [name, value] of Object.entries(step.out)) {
            if (typeof value === "string" && value.startsWith("$")) this.known[value] ??= message[name];
        }
        assert.deepEqual(Object.entries(message), Object.entries(this.filled(step.out)));
    }

    quiet() {
        assert.deepEqual(wire, []);
    }

    async wait(step) {
        await clock.advance(step.wait);
    }

    error(step) {
        const { error } = this.turns[step.turn];
        assert.equal(error?.constructor, ERRORS[step.error], String(error?.stack));
        for (const name of ["code", "text", "outcome"]) if (name in step) assert.equal(error[name], step[name]);
    }

    async in(step) {
        const [[kind, name]] = Object.entries(step.to);
        const message = this.filled(step.in);
        this.parts[message._part ?? null] = this.payload(message);
        const before = this.port.statistics();
        const waiting = Object.keys(this.turns).filter((turn) => !this.turns[turn].isOver);
        const had = Object.fromEntries(Object.entries(this.turns).map(([turn, { got }]) => [turn, got?.length]));
        socket.onmessage({ data: JSON.stringify(message) });
        await settle(clock);
        const after = this.port.statistics();
        const grown = (names) => names.some((one) => after[one] !== before[one]);
        const strays = Object.keys(STRAYS).filter((stray) => grown(STRAYS[stray]));
        const settled = waiting.filter((turn) => this.turns[turn].isOver);
        assert.deepEqual(settled, ["turn", "fails", "done"].includes(kind) ? [name] : []);
        const gives = step.gives ?? (kind === "stream" ? [message._part] : []);
        for (const [turn, { got }] of Object.entries(this.turns)) {
            const wanted = turn === name ? gives.map((place) => this.parts[place]) : [];
            if (got) assert.deepEqual(got.slice(had[turn]), wanted);
        }
        const expected = kind === "nobody" && name !== null ? [name] : [];
        assert.deepEqual(kind === "ends" ? strays.filter((stray) => stray !== "given_up") : strays, expected);
        assert.equal(after.plain - before.plain, kind === "plain" ? 1 : 0);
        assert.equal(after.accepted - before.accepted, kind === "opens" ? 1 : 0);
        if (kind === "turn") assert.deepEqual(this.turns[name].value, this.payload(message));
        else if (kind === "plain") assert.deepEqual(this.plain.pop(), message);
        else if (kind === "ends") assert(this.sessions[name].closed);
        else if (kind === "opens") this.sessions[name] = this.opened.pop();
        if (kind === "session" || kind === "opens") {
            assert.deepEqual(await this.receive(this.sessions[name]), this.payload(message));
        } else if (kind !== "plain" && kind !== "ends" && kind !== "turn") {
            for (const session of Object.values(this.sessions)) assert.equal(await this.receive(session), undefined);
        }
    }

    /** The next message of a session, if there is one already. */
    async receive(session) {
        let value;
        session.receive({ timeout: 0 }).then((message) => (value = message), () => {});
        await settle(clock);
        return value;
    }
}

async function tell(vector) {
    const story = new Story();
    const { exact = false, session_ids: ids, ...rest } = vector.options;
    const options = { dialect: exact ? "exact" : "classic", ...renamed(rest, OPTIONS) };
    const unknown = Object.keys(rest).filter((name) => !(name in OPTIONS));
    assert.deepEqual(unknown, [], "options that the story does not know");
    // The ranges of Python: their end is not in them.
    if (ids) options.sessionIds = { first: ids[0], last: ids[1] - 1, step: ids[2] ?? 1 };
    if (vector.handler) options.onSession = (session) => story.handle(session);
    story.sidName = options.sessionIdName ?? "sid";
    wire = [];
    story.port = await psession.connect("ws://story", {
        ...options,
        WebSocket: Socket,
        clock,
        logger: null,
        keepaliveInterval: Infinity,
        onMessage: (message) => story.plain.push(message),
    });
    for (const [number, step] of vector.steps.entries()) {
        const kind = ["do", "out", "quiet", "in", "error", "wait"].find((one) => one in step);
        try {
            await story[kind](step);
            await settle(clock);
        } catch (error) {
            error.message = `step ${number}: ${JSON.stringify(step)}\n${error.message}`;
            throw error;
        }
    }
    story.quiet();
    await story.port.close();
    assert.equal(clock.size, 0, "timers are left");
}

let text = "";
for await (const chunk of process.stdin) text += chunk;
const results = {};
for (const [name, vector] of Object.entries(JSON.parse(text))) {
    results[name] = await tell(vector).then(() => null, (error) => error.stack);
    clock.clear();
}
console.log(JSON.stringify(results));
