// The machine of clients/js without a port, a socket or a clock, driven by the deeds of a history: tests/machines.py, in
// JavaScript. What came of it is told in words that those of Python's machine can be compared with.
//
//   node machine.mjs tables             prints the tables of states
//   node machine.mjs histories          reads {options, history} a line; prints [told, state] of each deed, a line each
import { createInterface } from "node:readline";
import * as protocol from "../../clients/js/protocol.js";

const { Arriving, AskedTurn, Connection, Dialect, Dialogue, endings } = protocol;
const LIFE = 100;
const FRAME_BYTES = 100;
const asks = (fields) => "ask" in fields;

function machine({ asksExactly, isQuestion, ...settings }) {
    return new Connection({
        dialect: new Dialect({ asksExactly, isQuestion: isQuestion ? asks : undefined }),
        name: "p",
        settings,
        encode: (message) => message,
        size: () => FRAME_BYTES,
        life: LIFE,
        firstBack: protocol.FIRST_BACK,
    });
}

const pick = (these, which) => these[which] ?? null;
const before = (isFirst) => (one, other) => Number(!isFirst(one)) - Number(!isFirst(other));

class World {
    turns = [];
    told = [];

    constructor(ports) {
        this.ports = ports;
    }

    // -- what comes --

    hear(_, message, now) {
        this.tell(this.ports.receive(message, now));
    }

    reply(which, fields, now) {
        const turn = pick([...this.turns].sort(before((one) => one.state === "waiting")), which);
        if (turn === null) return;
        const { exact, sid } = turn.dialogue;
        const header = exact === null ? {} : { _re: turn.number, _life: exact.life };
        this.hear(0, { sid, ...header, ...fields }, now);
    }

    question(which, { step = 1, ...fields }, now) {
        const session = pick(this.ports.all().sort(before((one) => one.incoming)), which);
        if (session === null) return;
        const { exact, sid, key } = session;
        const life = exact === null || exact.life === undefined ? {} : { _life: exact.life };
        this.hear(0, { sid, _turn: Math.max(1, this.ports.turns.last(key) + step), ...life, ...fields }, now);
    }

    // -- what this side asks --

    open(_, __, now) {
        try {
            this.ports.open(now, true);
        } catch (error) {
            this.told.push(error.name);
        }
        this.tell(this.ports.take());
    }

    ask(which, window, now) {
        const session = pick(this.ports.all().filter((one) => one.turn === null), which);
        if (session === null) return;
        const turn = (session.turn = new AskedTurn(session));
        turn.started = now;
        const streams = window > 0 && this.ports.isExact(session);
        this.ports.begin(turn, 60, streams ? new Arriving(window) : null);
        const frame = this.ports.ask(turn, { q: 1 }, 60);
        turn.attempts = turn.sent = 1;
        this.turns.unshift(turn);
        this.told.push(frame);
    }

    leave(which, how, now) {
        const turn = pick(this.turns.filter((one) => one.dialogue.turn === one), which);
        if (turn === null) return;
        if (how === "unsent" && !turn.answered) turn.sent = 0;
        this.tell(this.ports.turnOver(turn, "cancelled", now));
    }

    give_up(which) {
        const turn = pick(this.turns.filter((one) => one.dialogue.turn === one), which);
        if (turn !== null) this.tell(this.ports.giveUp(turn, endings.CANCELLED));
    }

    part(which, fields, now) {
        const turn = pick(this.turns.filter((one) => one.state === "listening"), which);
        if (turn === null) return;
        const { sid, exact } = turn.dialogue;
        this.hear(0, { sid, _re: turn.number, _part: turn.arriving.next, _life: exact.life, ...fields }, now);
    }

    take(which) {
        const turn = pick(this.turns.filter((one) => one.arriving?.ready.length), which);
        if (turn !== null) this.told.push(["taken", { reply: turn.arriving.take(), credit: turn.arriving.grant() }]);
    }

    /** Python's machine keeps no session for what stands alone, where the port has on_request; this one does. */
    alone() {}

    // -- what this side says --

    answer(which, isLast, now) {
        const { ports } = this;
        const session = pick(ports.all(), which);
        if (session === null) return;
        const running = ports.turns.running(session.key);
        if (running) ports.hold(session, running);
        const stream = session.exact?.stream;
        if (stream) {
            if (!stream.isOver) {
                stream.spent += 1;
                this.told.push(ports.part(session, { a: 1 }, now, isLast));
            }
        } else {
            const posted = ports.post(session, { a: 1 });
            this.told.push(posted.frame);
            if (isLast && (posted.answers || posted.opens)) {
                ports.notPosted(session, posted);
                return;
            }
        }
        if (!session.exact?.stream) this.tell(ports.answerSent(session, now));
    }

    fail(which) {
        const session = pick(this.ports.all(), which);
        if (session !== null) this.tell(this.ports.leave(session, "crashed"));
    }

    end(which, _, now) {
        const session = pick(this.ports.all(), which);
        if (session !== null) this.tell(this.ports.end(session, endings.ENDED, now));
    }

    // -- what is compared --

    tell(happened) {
        for (const { kind, ...contents } of happened) {
            for (const name in contents) contents[name] = inWords(contents[name]);
            this.told.push([kind, contents]);
        }
    }

    state() {
        const { ports } = this;
        const { bytesSent, bytesReceived, ...counters } = ports.counters; // which its port counts
        const keys = Array.from({ length: 19 }, (_, index) => index - 9);
        return {
            sessions: ports.all().map(sessionInWords),
            turns: this.turns.map(({ number, state, answered }) => [number, state, answered]),
            memory: keys.map((key) => {
                const { turns } = ports;
                return [turns.last(key), turns.state(key), turns.running(key), [...(turns.held(key)?.frames ?? [])]];
            }),
            stored: ports.turns.storedBytes,
            known: [ports.peer, ports.peerLife, ports.pool.resting, ports.handlers],
            counters,
        };
    }
}

function sessionInWords(session) {
    const { exact, turn } = session;
    const names = ["life", "opened", "lastTurn", "holding", "began", "due", "isFinal", "isCautious", "posted", "heard"];
    const known = exact && [names.map((name) => exact[name] ?? null), inWords(exact.stream)];
    const asked = turn && [turn.number, turn.state, turn.answered, turn.sent, inWords(turn.arriving)];
    return [session.incoming, session.sid, known, asked, session.owed, session.unsafeUntil];
}

function inWords(value) {
    if (value instanceof Dialogue) return ["session", value.incoming, value.sid];
    if (value instanceof AskedTurn) return ["turn", inWords(value.dialogue), value.number, value.state, value.answered];
    if (value instanceof Arriving) return ["replies", value.credit, value.next, value.consumed, [...value.ready]];
    if (value instanceof protocol.Departing) {
        return ["stream", value.credit, value.spent, value.made, value.acked, value.isComplete, value.isOver];
    }
    if (value?.counter !== undefined) return ["ending", value.error.name, value.clean, value.counter, value.code];
    return value;
}

const [, , what] = process.argv;
if (what === "tables") {
    const { ANSWERER, ASKER, SESSION, ADVICE, EXPECTED } = protocol;
    console.log(JSON.stringify({ ANSWERER, ASKER, SESSION, reasons: Object.keys(ADVICE), expected: [...EXPECTED] }));
} else {
    for await (const line of createInterface({ input: process.stdin })) {
        const { options, history } = JSON.parse(line);
        const world = new World(machine(options));
        const told = history.map(([deed, which, value], now) => {
            world.told = [];
            world[deed](which, value, now);
            return [world.told, world.state()];
        });
        const infinite = (_, value) => (value === Infinity ? "never" : value);
        console.log(JSON.stringify(told, infinite));
    }
}
