// The protocol of sessions: errors, tables, and the machine of one port. Pure: it reads no clock, sets no timer, opens
// no socket and draws no chance; time is an argument, in seconds.
//
// `receive(message, now)` and the commands take a session one step further and leave events, which `take()` gives to
// psession.js to carry out. docs/protocol.md says what every message means; the tables below are those of that page.

// -- errors -----------------------------------------------------------------------------------------------------------

/** The root of all errors that psession raises on purpose. What is known travels as data; `message` puts it in words. */
export class SessionError extends Error {
    constructor(why = "", { sid, attempts = 0, waited = 0, outcome, cause } = {}) {
        const place = sid === undefined ? "" : `session ${sid}: `;
        const tries = attempts === 1 ? "1 attempt" : `${attempts} attempts`;
        super(place + why + (attempts ? ` (${tries}, ${+waited.toPrecision(3)} s)` : ""), { cause });
        if (cause === undefined) delete this.cause;
        Object.assign(this, { why, sid, attempts, waited, outcome });
    }
}

/** No reply came in the time that the caller gave, all attempts included. */
export class TimeoutError extends SessionError {}
/** The turn was given up by `cancel()` or `end()`, or its session was recycled. */
export class CancelError extends SessionError {}
/** The turn was cut off: the port was closed, or `abort()` or `clear()` was called. */
export class AbortError extends SessionError {}
/** The port is closed, or its link broke and did not come back; `cause` says how. */
export class PortClosedError extends AbortError {}
/** The session is over, or what was asked of it is not possible in its state. */
export class InvalidError extends SessionError {}
/** The peer sent more than there is room for, or does not read what is posted. */
export class OverrunError extends SessionError {}
/** No session number is free: all are in use or rest after an unanswered turn. */
export class OverflowError extends SessionError {}
/** A message that cannot travel. The session and the port live on. */
export class MessageError extends SessionError {}
/** The message cannot be written as JSON, or has a field of psession's own. */
export class MalformedMessageError extends MessageError {}
/** The message is larger than `maxMessageBytes`. */
export class MessageTooLargeError extends MessageError {}

/** The peer answered the turn with an error: `code` for programs, `text` for people. */
export class RemoteError extends SessionError {
    constructor(why, { code = "", text = "", ...known } = {}) {
        super(why, known);
        this.code = code;
        this.text = text;
    }
}

/** For a handler to throw: nothing was done, and why. Its asker gets a RemoteError with the code `refused.` and this. */
export class RefusedError extends SessionError {
    constructor(why = "", { code = "", ...known } = {}) {
        if (!/^[\p{L}\p{N}_.-]*$/u.test(code)) {
            throw new RangeError(`a code has letters, digits, "_", "-" and ".", which ${JSON.stringify(code)} does not`);
        }
        super(why, known);
        this.code = code;
    }
}

for (const [name, kind] of Object.entries({
    ...{ SessionError, TimeoutError, CancelError, AbortError, PortClosedError, InvalidError, OverrunError },
    ...{ OverflowError, MessageError, MalformedMessageError, MessageTooLargeError, RemoteError, RefusedError },
})) {
    Object.defineProperty(kind.prototype, "name", { value: name }); // not constructor.name, which a minifier changes
}

// -- words and limits -------------------------------------------------------------------------------------------------

/** Number.MAX_SAFE_INTEGER: RFC 8259, section 6, recommends no integer past it in JSON. */
export const LARGEST = Number.MAX_SAFE_INTEGER;
/** Seconds, a year: longer waits count as this one. */
export const LONGEST_WAIT = 366 * 24 * 3600;
/** The least that a turn says it waits, since 0 means that no answer is wanted. */
const SHORTEST_WAIT = 0.001;
/** Turns from this number up are asked in a session of the other side's. */
export const FIRST_BACK = 2 ** 49;
/** Replies that the asker of a stream has room for: half of them are on their way while the other half is granted. */
export const DEFAULT_WINDOW = 32;
/** Turns given up whose late answers are told from duplicates: only a word in the statistics hangs on it. */
const MAX_GIVEN_UP = 4096;
/** Lives of the peer's that are remembered as over. */
const PAST_LIVES = 16;
/** What a stored answer counts beside its bytes: entries of two tables, an array, two objects. */
const FRAME_OVERHEAD_BYTES = 200;
/** Numbers of sessions that share one array of 2 KiB, and how many arrays there are: 131,072 numbers in 1 MiB. */
const PAGE = 256;
const MAX_PAGES = 512;
/** Of a longer range of numbers the first 1,048,576 are used: one byte each. */
const MAX_ROTATION = 2 ** 20;

const REFUSED = "refused";
const NO_SESSION = "refused.no_session";
const NO_HANDLER = "refused.no_handler";
const FULL = "refused.full";
const CLOSING = "refused.closing";
const LATE = "refused.late";
const MALFORMED = "refused.malformed";
const FORGOTTEN = "forgotten";
export const UNANSWERED = "unanswered";
export const CRASHED = "crashed";
const ENDED = "ended";

const isRefusal = (code) => code === REFUSED || code.startsWith(`${REFUSED}.`);
const joinError = (code, text) => (text ? `${code}: ${text}` : code);

function splitError(field) {
    const at = field.indexOf(": ");
    return at < 0 ? [field, ""] : [field.slice(0, at), field.slice(at + 2)];
}

/** The code of a handler's RefusedError as it travels. */
export const refusalCode = (code) => (code ? `${REFUSED}.${code}` : REFUSED);

/** Each reason for which a message of the peer's is dropped: what happened, and what would be right. */
export const ADVICE = {
    late: "a reply came after its turn was given up; a longer timeout would have caught it",
    duplicate: "a copy of a message that was there already: the network or the peer repeats itself",
    unknownSid:
        "a reply for a number that this side never gave. Do both sides open sessions from the same range? " +
        "Give them disjoint sessionIds, or use the exact wire",
    noSession: "a message for a session that is not open here; its peer missed the end, or was started anew",
    noHandler: "the peer opened a session, and nobody takes it: give onRequest or onSession to connect()",
    staleOwn: "a message for an earlier life of this port, which was started anew",
    stalePeer: "a message from an earlier life of the peer, which was started anew",
    malformed: "a message that cannot be read; does the peer speak another protocol?",
    overrun: "more messages than somebody receives; receive them faster, or raise inboxLimit or maxHeldBytes",
    refused: "a session was not taken, since maxIncomingSessions are all at work; raise it, or work faster",
    closing: "a session was not taken, since this port is closed or being drained",
    unheard: "a message that is no session's, and nobody hears it: give onMessage to connect()",
};

/** Reasons that a good peer on a bad network gives; the others say that somebody made a mistake. */
export const EXPECTED = new Set(["late", "duplicate", "staleOwn", "stalePeer", "closing"]);

const COUNTERS = [
    ...["opened", "accepted", "matched", "plain", "timedOut", "cancelled", "aborted", "recycled", "expired", "crashed"],
    ...["classic", "failed", "unread", "repeated", "givenUp", "resumed", "forgotten", "sent", "bytesSent"],
    ...["bytesReceived", ...Object.keys(ADVICE)],
];

/** All counters at 0. */
export const newCounters = () => Object.fromEntries(COUNTERS.map((name) => [name, 0]));

// -- the tables -------------------------------------------------------------------------------------------------------

/** The last turn of a number that the peer asked: what it is, what happens, what it is then and what is done. */
export const ANSWERER = {
    nothing: {
        askNext: ["running", "run"],
        streamNext: ["streaming", "run"],
        streamRest: ["over", "quitDeny"],
        askForgotten: ["nothing", "deny"],
        quitNext: ["over", "drop"],
        quitOlder: ["nothing", "drop"],
        grantOther: ["nothing", "drop"],
        pass: ["over", "run"],
    },
    running: {
        askNext: ["running", "run"],
        streamNext: ["streaming", "run"],
        streamRest: ["over", "quitDeny"],
        askSame: ["running", "progress"],
        askOlder: ["running", "drop"],
        quitNext: ["over", "cancel"],
        quitSame: ["over", "cancel"],
        quitOlder: ["running", "drop"],
        grantSame: ["running", "drop"],
        grantOther: ["running", "drop"],
        answer: ["answered", "send"],
        leave: ["answered", "fail"],
        pass: ["over", "run"],
    },
    streaming: {
        askNext: ["running", "run"],
        streamNext: ["streaming", "run"],
        streamRest: ["over", "quitDeny"],
        askSame: ["streaming", "resend"],
        askOlder: ["streaming", "drop"],
        quitNext: ["over", "cancel"],
        quitSame: ["over", "cancel"],
        quitOlder: ["streaming", "drop"],
        grantSame: ["streaming", "advance"],
        grantOther: ["streaming", "drop"],
        part: ["streaming", "sendPart"],
        finish: ["answered", "sendEnd"],
        leave: ["answered", "fail"],
        pass: ["over", "run"],
        outgrow: ["streaming", "forget"],
    },
    answered: {
        askNext: ["running", "run"],
        streamNext: ["streaming", "run"],
        streamRest: ["over", "quitDeny"],
        askSame: ["answered", "repeat"],
        askOlder: ["answered", "drop"],
        quitNext: ["over", "forget"],
        quitSame: ["over", "forget"],
        quitOlder: ["answered", "drop"],
        grantSame: ["answered", "advance"],
        grantOther: ["answered", "drop"],
        pass: ["over", "run"],
        outgrow: ["over", "forget"],
    },
    over: {
        askNext: ["running", "run"],
        streamNext: ["streaming", "run"],
        streamRest: ["over", "quitDeny"],
        askSame: ["over", "deny"],
        askOlder: ["over", "drop"],
        quitNext: ["over", "drop"],
        quitSame: ["over", "drop"],
        quitOlder: ["over", "drop"],
        grantSame: ["over", "drop"],
        grantOther: ["over", "drop"],
        pass: ["over", "run"],
    },
};

/** A turn that this side asks: whether it waits, what comes, what it is then and what is done. */
export const ASKER = {
    waiting: {
        reply: ["idle", "take"],
        error: ["idle", "raise"],
        busy: ["waiting", "postpone"],
        unmarked: ["idle", "takeClassic"],
        stray: ["waiting", "count"],
        giveUp: ["idle", "leave"],
    },
    listening: {
        partNext: ["listening", "handOver"],
        partAhead: ["listening", "hold"],
        partAgain: ["listening", "count"],
        partBeyond: ["idle", "stopOverrun"],
        last: ["idle", "stop"],
        reply: ["idle", "take"],
        error: ["idle", "raise"],
        busy: ["listening", "postpone"],
        unmarked: ["idle", "takeClassic"],
        stray: ["listening", "count"],
        giveUp: ["idle", "leave"],
    },
    idle: {
        reply: ["idle", "count"],
        error: ["idle", "count"],
        busy: ["idle", "count"],
        unmarked: ["idle", "keep"],
        stray: ["idle", "count"],
    },
};

/** The peer's knowledge of an exact session that has a turn of this side's, and what changes it. What is over stays so.
 * fresh: it has never heard of it; open: it has it as it is; stale: the next turn opens it anew; told: it was told that
 * it is over; done: it knows. */
export const SESSION = {
    fresh: { answered: "open", posted: "open", unsent: "fresh", unanswered: "stale", tell: "told", peerDone: "done" },
    open: { answered: "open", posted: "open", unsent: "stale", unanswered: "stale", tell: "told", peerDone: "done" },
    stale: { answered: "open", posted: "open", unsent: "stale", unanswered: "stale", tell: "told", peerDone: "done" },
    told: { answered: "told", posted: "told", unsent: "told", unanswered: "told", tell: "told", peerDone: "done" },
    done: { answered: "done", posted: "done", unsent: "done", unanswered: "done", tell: "done", peerDone: "done" },
};

function step(table, state, event, whose) {
    const found = table[state][event];
    if (found === undefined) throw new Error(`${whose}: it is ${state}, and ${event} has no step: a fault of psession's`);
    return found;
}

const isAtWork = (state) => state === "running" || state === "streaming";

// -- endings: why something is over, as data, from which each waiter gets an error of its own -------------------------

class Ending {
    constructor(error, why, { cause, clean = false, after = InvalidError, counter = "cancelled", code = "" } = {}) {
        Object.assign(this, { error, why, cause, clean, after, counter, code });
    }
}

const RECYCLED = new Ending(CancelError, "the session was recycled: all numbers were in use or rested");
const MADE_ROOM = new Ending(CancelError, "the session was recycled: the peer opened another", { clean: true });
const PEER_ENDED = new Ending(CancelError, "the peer ended the session", { clean: true });
const GIVEN_UP = new Ending(CancelError, "the peer gave the turn up", { clean: true });
const OUTGROWN = new Ending(CancelError, "answers that the peer lacks outgrew maxAnswerBytes", { clean: true });
const REPLACED = new Ending(CancelError, "the peer opened the session anew", { clean: true });
const PEER_RESTARTED = new Ending(CancelError, "the peer began a new life", { clean: true });
const LEFT_UNANSWERED = new Ending(CancelError, 'a turn was not answered (onUnanswered: "end")');
const MEMORY_LOST = new Ending(
    AbortError,
    "the link broke, and the peer that came back has lost its memory: whether the turn was done is not known",
    { counter: "aborted" },
);

/** The endings that psession.js has use for. */
export const endings = {
    ENDED: new Ending(CancelError, "the session was ended", { clean: true }),
    CANCELLED: new Ending(CancelError, "the turn was cancelled by cancel()", { code: "cancelled" }),
    TIMED_OUT: new Ending(TimeoutError, "no reply until timeout() was called", { counter: "timedOut", code: "timeout" }),
    aborted: (cause) =>
        new Ending(AbortError, "the turn was aborted by abort()", { cause, counter: "aborted", code: "aborted" }),
    CLEARED: {
        abort: new Ending(AbortError, "aborted by clear()", { counter: "aborted" }),
        cancel: new Ending(CancelError, "cancelled by clear()"),
        timeout: new Ending(TimeoutError, "timed out by clear()", { counter: "timedOut" }),
    },
    portLeft: (why) => new Ending(AbortError, why, { after: PortClosedError, counter: "aborted", code: "closed" }),
    portClosed: (why, cause) =>
        new Ending(PortClosedError, why, {
            cause,
            clean: cause === undefined,
            after: PortClosedError,
            counter: "aborted",
        }),
    overrun: (why) => new Ending(OverrunError, why, { after: OverrunError, code: "overrun" }),
    expired: (life) => new Ending(CancelError, `it was idle for ${life} s (sessionMaxLife)`, { clean: true }),
};

// -- the dialect: how headers are written beside payloads, and read ---------------------------------------------------

const FIELDS = ["turn", "re", "new", "end", "error", "wait", "life", "part", "credit", "traceparent", "tracestate", "port", "resume"];
const NUMBER_FIELDS = ["turn", "re", "life", "part", "credit"];
const isCount = (value) => Number.isSafeInteger(value) && value >= 0;
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** Both wires: flat fields beside the application's own.
 *
 * @param sessionIdName the field of a message that holds the session's number
 * @param fields        other names for the exact fields, by their own: `{turn: "_t"}`
 * @param asksExactly   whether this side numbers the turns that it asks; those of the peer are answered exactly anyway
 * @param isQuestion    tells of a message without exact fields whether it asks something, whatever its number says */
export class Dialect {
    constructor({ sessionIdName = "sid", fields = {}, asksExactly = true, isQuestion } = {}) {
        this.sidName = sessionIdName;
        this.names = Object.fromEntries(FIELDS.map((field) => [field, fields[field] ?? `_${field}`]));
        this.asksExactly = asksExactly;
        const jsonRpc = sessionIdName === "id" ? (message) => Object.hasOwn(message, "method") : undefined;
        this.isQuestion = isQuestion ?? jsonRpc; // of JSON-RPC 2.0, section 4: a message with "method" asks
        this.exactNames = new Set(Object.values(this.names));
        const unknown = Object.keys(fields).filter((field) => !FIELDS.includes(field));
        if (unknown.length) throw new TypeError(`fields has no ${unknown.join(", ")}; there are ${FIELDS.join(", ")}`);
        if (this.exactNames.size < FIELDS.length || this.exactNames.has(sessionIdName)) {
            throw new RangeError(`the names of the fields must differ: ${sessionIdName}, ${[...this.exactNames].join(", ")}`);
        }
        this.reserved = new Set([...this.exactNames, sessionIdName]);
    }

    /** Begin a message of a payload, which is not changed, and a session's number. `put` adds the exact fields. */
    open(payload, sid, exact) {
        if (typeof payload?.toJSON === "function") payload = payload.toJSON();
        if (Object.prototype.toString.call(payload) !== "[object Object]") {
            throw new MalformedMessageError(`a payload is an object with fields of its own, not ${describe(payload)}`);
        }
        for (const name of exact ? this.reserved : [this.sidName]) {
            if (Object.hasOwn(payload, name)) throw this.#reservedName(name);
        }
        return { ...payload, [this.sidName]: sid };
    }

    /** Put exact fields into a message, by their own names; those that are undefined are left out. */
    put(message, header) {
        for (const field in header) if (header[field] !== undefined) message[this.names[field]] = header[field];
        return message;
    }

    /** Refuse a payload that would be taken for a session's message. */
    checkPlain(payload) {
        if (isObject(payload) && Object.hasOwn(payload, this.sidName)) throw this.#reservedName(this.sidName);
    }

    #reservedName(name) {
        const remedy =
            name === this.sidName
                ? "leave it out, session.sid has the number; or choose another name for it with sessionIdName"
                : 'rename it, or choose other names for psession\'s own with fields: {turn: "_t", ...}';
        return new MalformedMessageError(`the payload has a field "${name}", which is psession's own here: ${remedy}`);
    }

    /** The fields of a message; null where it is no object. */
    fieldsOf(message) {
        return isObject(message) ? message : null;
    }

    /** The session's number; null where the message is no session's. */
    sidOf(fields) {
        const sid = ownField(fields, this.sidName);
        return Number.isSafeInteger(sid) && sid > 0 ? sid : null;
    }

    /** The exact fields, checked: null where one is not what it must be. What is not there is undefined. */
    headerOf(fields) {
        const header = {};
        for (const field in this.names) {
            const value = ownField(fields, this.names[field]);
            header[field] = value === null ? undefined : value;
        }
        for (const field of NUMBER_FIELDS) {
            if (header[field] !== undefined && !isCount(header[field])) return null;
        }
        const { turn, re, credit, error, wait } = header;
        if (turn === 0 || re === 0 || credit === 0 || (error !== undefined && typeof error !== "string")) return null;
        if (wait !== undefined) {
            if (typeof wait !== "number" || !Number.isFinite(wait) || wait < 0) return null;
            header.wait = Math.min(wait, LONGEST_WAIT);
        }
        for (const field of ["new", "end"]) {
            if (header[field] !== undefined && typeof header[field] !== "boolean") return null;
            header[field] = header[field] === true;
        }
        return header;
    }

    /** The payload: a new object without the number and, where the message is exact, without the exact fields. */
    payloadOf(message, exact) {
        const payload = { ...message };
        for (const name of exact ? this.reserved : [this.sidName]) delete payload[name];
        return payload;
    }

    /** Whether nothing in a message is the application's. */
    isBare(message) {
        return Object.keys(message).every((name) => this.reserved.has(name));
    }

    hasExactField(fields) {
        for (const name of this.exactNames) if (ownField(fields, name) !== undefined && fields[name] !== null) return true;
        return false;
    }
}

const ownField = (fields, name) => (Object.hasOwn(fields, name) ? fields[name] : undefined);

function describe(value) {
    const kind = Object.prototype.toString.call(value).slice(8, -1); // "Array", "Map", "Promise", "Null"
    return kind === "Promise" ? "a Promise: await it first" : `${/^[AEIOU]/.test(kind) ? "an" : "a"} ${kind}`;
}

// -- what two exact ports tell each other about themselves ------------------------------------------------------------

/** Hello and welcome, signs of life, leaving.
 *
 * ticket is the name and the secret by which the accepting side finds its port again; hostLife the life of that side's
 * port; peerLeft whether it left for good; peerClosing whether it takes no new sessions, lastTaken the last turn that it
 * took, as it said then. */
export class Handshake {
    ticket = null;
    hostLife = null;
    peerLeft = false;
    peerClosing = false;
    lastTaken = 0;

    constructor(dialect, name, life) {
        Object.assign(this, { dialect, name, life });
    }

    #message(header) {
        return this.dialect.put({}, header);
    }

    hello() {
        return this.#message({ new: true, life: this.life, ...this.ticket });
    }

    /** The answer to a hello. This side gives no ticket: it opens the links, and is never looked for. */
    welcome() {
        return this.#message({ port: this.name, life: this.life });
    }

    askForLife(patience) {
        return this.#message({ wait: patience, life: this.life });
    }

    signOfLife() {
        return this.#message({ life: this.life });
    }

    /** No new sessions: a turn above `highest` that opens one was not taken. */
    closing(highest) {
        return this.#message({ turn: Math.max(1, highest), end: true, life: this.life });
    }

    goodbye() {
        return this.#message({ end: true, life: this.life });
    }

    /** The header of a message about a port; null where it is none. */
    read(fields) {
        if (fields === null || !Object.keys(fields).length) return null;
        if (!Object.keys(fields).every((name) => this.dialect.exactNames.has(name))) return null;
        const header = this.dialect.headerOf(fields);
        return header !== null && header.life !== undefined ? header : null;
    }

    /** Whether the peer still knows this side; null where the message is no welcome. */
    welcomed(message) {
        const header = this.read(this.dialect.fieldsOf(message));
        if (header === null || typeof header.port !== "string") return null;
        const known = header.life === this.hostLife;
        this.hostLife = header.life;
        const { port, resume } = header;
        this.ticket = typeof resume === "string" ? { port, resume } : null;
        return known;
    }
}

// -- this side's numbers ----------------------------------------------------------------------------------------------

const FREE = 0;
const IN_USE = 1;
const RESTING = 2;

/** Hands the numbers of a range out in rotation. One that is given back while replies to it may still be on their way
 * rests; when nothing else is free, one whose late replies have all been seen is taken early. */
export class SidPool {
    #state = new Uint8Array(0);
    #cursor = 0;
    #high = 0;
    #resting = new Map(); // sid: [safe at, replies owed], the longest first
    #settled = new Set();

    constructor({ first, last, step = 1 }) {
        this.first = first;
        this.step = step;
        this.size = Math.min(MAX_ROTATION, Math.floor((last - first) / step) + 1);
    }

    #index(sid) {
        return (sid - this.first) / this.step;
    }

    has(sid) {
        const index = this.#index(sid);
        return Number.isInteger(index) && index >= 0 && index < this.size;
    }

    get resting() {
        return this.#resting.size;
    }

    /** The next free number; null when all are in use or rest. */
    take(now) {
        this.#wakeUntil(now);
        let index = this.#state.indexOf(FREE, this.#cursor);
        if (index < 0) index = this.#state.length < this.size ? this.#grow() : this.#state.indexOf(FREE);
        if (index < 0) {
            const [sid] = this.#settled;
            if (sid === undefined) return null;
            this.#settled.delete(sid);
            this.#resting.delete(sid);
            index = this.#index(sid);
        }
        this.#state[index] = IN_USE;
        this.#cursor = index + 1;
        this.#high = Math.max(this.#high, index + 1);
        return this.first + index * this.step;
    }

    giveBack(sid) {
        this.#state[this.#index(sid)] = FREE;
    }

    /** The number is safe at `until`; so many replies may still come (Infinity: nobody knows). */
    rest(sid, until, owed) {
        this.#state[this.#index(sid)] = RESTING;
        this.#resting.set(sid, [until, owed]);
    }

    /** The number is safe sooner than it was to be. Whether it rested. */
    wake(sid) {
        if (!this.#resting.delete(sid)) return false;
        this.#settled.delete(sid);
        this.#state[this.#index(sid)] = FREE;
        return true;
    }

    /** The number that has rested longest, and when it is safe: its new owner must not send before. Null: none rests. */
    borrow() {
        for (const [sid, [until]] of this.#resting) {
            this.wake(sid);
            this.#state[this.#index(sid)] = IN_USE;
            return [sid, until];
        }
        return null;
    }

    nextSafe() {
        for (const [until] of this.#resting.values()) return until;
        return Infinity;
    }

    /** What a message is that came for a number of this pool that no session has now. */
    heard(sid) {
        const rest = this.#resting.get(sid);
        if (rest !== undefined) {
            if (rest[1]-- === 1) this.#settled.add(sid);
            return "late";
        }
        return this.#index(sid) < this.#high ? "duplicate" : "unknownSid";
    }

    #grow() {
        const index = this.#state.length;
        const grown = new Uint8Array(index + Math.min(Math.max(64, index), this.size - index));
        grown.set(this.#state);
        this.#state = grown;
        return index;
    }

    #wakeUntil(now) {
        for (const [sid, [until]] of this.#resting) {
            if (until > now) return;
            this.wake(sid);
        }
    }
}

// -- many answers to one turn: their places and their credit ----------------------------------------------------------

/** The asker's side: replies in order, each once, and how many the peer may send. */
export class Arriving {
    next = 1;
    consumed = 0;
    ready = [];
    last = null;
    #held = new Map();

    constructor(window, count = Infinity) {
        this.window = window;
        this.count = count;
        this.credit = Math.min(window, count);
    }

    get isEnough() {
        return this.consumed >= this.count;
    }

    /** The event that an item is to the turn, which came with the place `part`. An item: `{payload, isReply, isLast,
     * error}`. */
    arrive(part, item) {
        if (part < this.next || this.last !== null || this.#held.has(part)) return "partAgain";
        if (part > this.credit + (item.isReply ? 0 : 1)) return "partBeyond";
        this.#held.set(part, item);
        if (part > this.next) return "partAhead";
        while (this.last === null && this.#held.has(this.next)) {
            const first = this.#held.get(this.next);
            this.#held.delete(this.next);
            this.#add(first);
        }
        return this.last === null ? "partNext" : "last";
    }

    /** The stream ends here, whatever is still on its way. */
    close(item) {
        this.#add(item);
        this.last = item;
    }

    #add(item) {
        this.next += 1;
        if (item.isReply && this.consumed + this.ready.length < this.count) this.ready.push(item.payload);
        if (item.isLast) {
            this.last = item;
            this.#held.clear();
        }
    }

    take() {
        this.consumed += 1;
        return this.ready.shift();
    }

    /** The credit to tell the peer, or null; half a window at a time, but `atOnce`. */
    grant(atOnce = false) {
        const credit = Math.min(this.consumed + this.window, this.count);
        if (atOnce) return (this.credit = Math.max(credit, this.credit));
        const more = credit - this.credit;
        if (this.last !== null || more <= 0 || (2 * more < this.window && credit !== this.count)) return null;
        return (this.credit = credit);
    }
}

/** The answerer's side: how many replies it may send, and which ones the asker has.
 *
 * `spent` counts places that are taken, `made` is the place of the last reply or end; up to `acked` the asker has them
 * all; `wake` is called when whoever waits for credit should look again. */
export class Departing {
    spent = 0;
    made = 0;
    acked = 0;
    isComplete = false;
    isOver = false;
    sizes = [];
    again = null;
    waiting = 0;
    wake = () => {};

    constructor(window) {
        this.window = window;
        this.credit = window;
    }

    grant(credit, part = 1) {
        this.credit = Math.max(this.credit, credit);
        this.acked = Math.min(Math.max(this.acked, credit - this.window, part - 1), this.made);
        this.wake();
    }

    get firstKept() {
        return this.made - this.sizes.length + 1;
    }

    /** How many of the kept replies the asker has; never the end. */
    toForget() {
        const isEnd = this.isComplete && this.acked === this.made;
        return Math.max(0, this.acked - this.firstKept + 1 - (isEnd ? 1 : 0));
    }

    stop() {
        this.isOver = true;
        this.wake();
    }
}

// -- the memory of the peer's turns, so that none is run twice --------------------------------------------------------

class LastTurn {
    frames = [];
    size = 0;
    queuedAt = 0;
    isOpen = false;
    stream = null;

    constructor(key, turn) {
        this.key = key;
        this.turn = turn;
        this.state = turn ? "over" : "nothing";
    }

    get running() {
        return isAtWork(this.state) ? this.turn : 0;
    }
}

/** The last turn of each session's number, what has become of it, and its answer.
 *
 * Turns of one number rise, so the last one is all there is to know. Numbers fall out in the order in which they came; a
 * turn that is not above those that fell out may have been run, and is refused. A key is the session's number, below 0
 * where this side opened the session. */
export class PeerTurns {
    storedBytes = 0;
    #pages = new Map();
    #held = new Map();
    #queue = new Map();
    #highest = 0;
    #forgotten = 0;

    constructor(maxBytes) {
        this.maxBytes = maxBytes;
    }

    /** The highest turn that was taken and is no question back. */
    get highest() {
        const turns = [...this.#held.values()].map(({ turn }) => turn);
        return Math.max(this.#highest, ...turns.filter((turn) => turn < FIRST_BACK));
    }

    held(key) {
        return this.#held.get(key);
    }

    last(key) {
        const held = this.#held.get(key);
        if (held !== undefined) return held.turn;
        const page = this.#pages.get(Math.floor(key / PAGE));
        return page === undefined ? 0 : page[key - PAGE * Math.floor(key / PAGE)];
    }

    running(key) {
        return this.#held.get(key)?.running ?? 0;
    }

    state(key) {
        return this.#held.get(key)?.state ?? (this.last(key) ? "over" : "nothing");
    }

    /** The event that a message is which asks `turn`, for many answers from `part` on, for one, or for none. */
    asked(key, turn, { streamed = false, part = 1, posts = false } = {}) {
        const last = this.last(key);
        if (turn <= last) return turn === last ? "askSame" : "askOlder";
        if (!last && turn <= this.#forgotten) return "askForgotten";
        if (posts) return "pass";
        return streamed ? (part > 1 ? "streamRest" : "streamNext") : "askNext";
    }

    /** The event that a message is which gives `turn` up. */
    quit(key, turn) {
        const last = this.last(key);
        if (turn > last && (last || turn > this.#forgotten)) return "quitNext";
        return turn === last ? "quitSame" : "quitOlder";
    }

    /** The event that a message is which gives credit for `turn`. */
    granted(key, turn) {
        return this.last(key) === turn ? "grantSame" : "grantOther";
    }

    /** Take the step from the table, and keep the memory in line with it. What is to be done. */
    advance(key, event, turn = 0, window = 0) {
        let held = this.#held.get(key);
        const state = this.state(key);
        const [to, action] = step(ANSWERER, state, event, `session ${key}`);
        if (to === state && !turn) return action;
        if (isAtWork(to)) held ??= this.#hold(key);
        if (held === undefined) {
            if (turn) this.#write(key, turn);
            return action;
        }
        held.state = to;
        if (turn || to === "over") {
            this.#drop(held);
            this.#stopStream(held);
        }
        if (turn) {
            held.turn = turn;
            if (window) held.stream = new Departing(window);
        }
        if (to === "over") this.#letGo(held);
        return action;
    }

    /** The turn is over, and will not be run. */
    giveUp(key, turn) {
        const event = this.quit(key, turn);
        return this.advance(key, event, event === "quitOlder" ? 0 : turn);
    }

    /** End the turn that runs under this number, if one does, without an answer. */
    stop(key) {
        if (this.running(key)) this.advance(key, "quitSame");
    }

    /** The turn that runs is answered with this frame. */
    answer(held, frame, size) {
        this.advance(held.key, "answer");
        this.store(held, frame, size);
    }

    /** Keep one more message of the answer to the last turn, for as long as there is room. */
    store(held, frame, size) {
        held.frames.push(frame);
        held.size += size + FRAME_OVERHEAD_BYTES;
        this.storedBytes += size + FRAME_OVERHEAD_BYTES;
        if (!held.queuedAt) {
            held.queuedAt = held.turn;
            this.#queue.set(held.key, held);
        }
        this.#makeRoom();
    }

    /** Keep one of many answers, or what ends them; the stream is the youngest of what is kept. */
    addPart(held, frame, size, event) {
        const stream = held.stream;
        this.advance(held.key, event);
        stream.made += 1;
        stream.isComplete = event !== "part";
        stream.sizes.push(size + FRAME_OVERHEAD_BYTES);
        if (held.queuedAt) {
            this.#queue.delete(held.key);
            this.#queue.set(held.key, held);
        }
        this.store(held, frame, size);
    }

    /** Forget the first parts, which the asker has. */
    forgetParts(held) {
        const gone = held.stream?.toForget() ?? 0;
        if (!gone) return;
        held.frames.splice(0, gone);
        const size = held.stream.sizes.splice(0, gone).reduce((sum, one) => sum + one, 0);
        held.size -= size;
        this.storedBytes -= size;
        this.#letGo(held);
    }

    /** Take the answer to a turn back, which was not sent after all: it runs again. Whether it does. */
    unanswer(key, turn) {
        if (this.last(key) !== turn || isAtWork(this.state(key))) return false;
        const held = this.#held.get(key) ?? this.#hold(key);
        held.state = "running";
        this.#drop(held);
        return true;
    }

    stopStreams() {
        for (const held of this.#held.values()) held.stream?.stop();
    }

    /** Keep what is known of a number at hand until `close`: the peer opens a session of it. */
    open(key) {
        const held = this.#held.get(key) ?? this.#hold(key);
        held.isOpen = true;
        return held;
    }

    close(key) {
        const held = this.#held.get(key);
        if (held !== undefined) {
            held.isOpen = false;
            this.#letGo(held);
        }
    }

    #hold(key) {
        const held = new LastTurn(key, this.last(key));
        this.#held.set(key, held);
        return held;
    }

    /** Keep no more than the last turn of a number without a session, a turn that runs and an answer. */
    #letGo(held) {
        if (held.isOpen || held.size || isAtWork(held.state) || !this.#held.delete(held.key)) return;
        if (held.queuedAt) this.#queue.delete(held.key);
        held.queuedAt = 0;
        if (held.turn) this.#write(held.key, held.turn);
    }

    #write(key, turn) {
        if (turn < FIRST_BACK) this.#highest = Math.max(this.#highest, turn);
        const number = Math.floor(key / PAGE);
        let page = this.#pages.get(number);
        if (page === undefined) {
            page = new Float64Array(PAGE);
            this.#pages.set(number, page);
            if (this.#pages.size > MAX_PAGES) {
                const [[oldest, gone]] = this.#pages;
                this.#pages.delete(oldest);
                for (const past of gone) if (past < FIRST_BACK) this.#forgotten = Math.max(this.#forgotten, past);
            }
        }
        page[key - PAGE * number] = turn;
    }

    #stopStream(held) {
        held.stream?.stop();
        held.stream = null;
    }

    #drop(held) {
        this.storedBytes -= held.size;
        held.size = 0;
        held.frames = [];
        if (held.stream !== null) held.stream.sizes = [];
    }

    /** Drop answers, the oldest first. One given after it joined the queue is not as old as its place there says. */
    #makeRoom() {
        while (this.storedBytes > this.maxBytes) {
            const [[key, held]] = this.#queue;
            this.#queue.delete(key);
            if (held.size && held.turn !== held.queuedAt) {
                held.queuedAt = held.turn;
                this.#queue.set(key, held);
                continue;
            }
            held.queuedAt = 0;
            if (held.size) {
                this.#drop(held);
                this.advance(key, "outgrow");
            }
        }
    }
}

// -- one session, and one turn that this side asks in it --------------------------------------------------------------

/** What the exact wire knows of a session. */
class ExactState {
    lastTurn = 0; // of this side's
    holding = 0; // the peer's turn that the application has and has not answered
    began = 0; // when the peer's last turn began here
    due = Infinity; // when its asker gives up
    isFinal = false; // that turn is the session's last
    isCautious = false; // a turn went unanswered before the peer was known to be exact: no unmarked reply counts
    posted = 0;
    heard = 0; // the number of the last post of the peer's
    stream = null; // the answers to the turn `holding`, where it is to have many

    constructor(life, memory = null) {
        this.life = life;
        this.memory = memory; // of the peer's last turn, in a session that the peer opened
        this.opened = memory === null ? "fresh" : "open";
    }

    advance(event) {
        this.opened = SESSION[this.opened][event];
    }

    get mustOpen() {
        return this.opened === "fresh" || this.opened === "stale";
    }

    get isOver() {
        return this.opened === "told" || this.opened === "done";
    }
}

/** One session, as the protocol knows it. `owner` is the application's side of it, which the protocol only carries. */
export class Dialogue {
    owner = null;
    turn = null; // this side's, under way
    ending = null;
    exact = null;
    once = false; // it is for one turn alone
    owed = 0; // replies on the classic wire that may still come to turns that are over
    unsafeUntil = 0; // the last owner of its number may get replies until then
    idleSince = Infinity; // Infinity: something goes on in it

    constructor(sid, incoming) {
        this.sid = sid;
        this.incoming = incoming;
    }

    /** Its number in the memory of the peer's turns. */
    get key() {
        return this.incoming ? this.sid : -this.sid;
    }
}

/** A turn of this side's: one question and its answer, or its many answers. */
export class AskedTurn {
    state = "waiting";
    attempts = 0;
    sent = 0; // how many of its messages left: each may be answered
    answered = false; // the peer's answer, an error included, is why it is over
    started = 0;
    deadline = Infinity; // the end of all its attempts, which no peer at work may postpone
    number = 0; // on the exact wire
    answers = 0; // the peer's turn that its message answers
    arriving = null; // its many answers

    constructor(dialogue) {
        this.dialogue = dialogue;
    }

    /** True where its message is on its way, or before all that is said from now on. */
    get isAsked() {
        return this.attempts > 0 && this.state !== "failed";
    }

    advance(event) {
        const [to, action] = step(ASKER, this.state, event, `turn ${this.number}`);
        this.state = to;
        return action;
    }

    would(event) {
        return step(ASKER, this.state, event, `turn ${this.number}`)[1];
    }
}

/** The event that an answer is, to a turn that is to have one. */
function eventOf(header) {
    if (header.error !== undefined) return "error";
    return header.wait !== undefined && header.turn === undefined ? "busy" : "reply";
}

// -- the machine ------------------------------------------------------------------------------------------------------

/** Both sides' sessions and turns on one port.
 *
 * Its events are objects with a `kind`; psession.js has one method for each:
 * answered, refused, postponed, heard, overrun, givenUp, askAgain (turns of this side's), opened, received, ended
 * (sessions), say, repeat (frames of its own), numberFree, peerClosing, plain, dropped.
 *
 * @param dialect   how headers are written and read
 * @param name      what this side calls the port
 * @param settings  sessionIds, maxSessionCount, maxIncomingSessions, sessionIdRest, onUnanswered, takesSessions,
 *                  maxAnswerBytes, deadlines
 * @param encode    makes a frame of a message; throws a MessageError for one that cannot travel
 * @param size      the bytes that a frame takes
 * @param life      the epoch of this port: a number that no other life of it has had
 * @param firstBack the number of the first question back: a random one from FIRST_BACK up */
export class Connection {
    own = new Map(); // this side's sessions, by number
    peers = new Map(); // the peer's
    idleOwn = new Set(); // those in which nothing goes on; the one that has been idle longest is in front
    idlePeers = new Set();
    counters = newCounters();
    peer = "unknown"; // the wire that it is known to speak: "unknown", "exact" or "classic"
    peerLife = null; // the life of its port, where it opened a session
    handlers = 0; // handlers of its sessions at work; some may outlive their session
    isConnected = true; // there is a channel on which the peer could be told something
    isClosing = false; // this side takes no new sessions of the peer's
    isDraining = false; // nor opens any
    events = [];
    #pastLives = [];
    #marksOpenings = false;
    #next = 1;
    #nextBack;
    #givenUp = new Set();
    #byAge = new Set(); // this side's sessions but those for one turn; the one opened first is in front

    constructor({ dialect, name, settings, encode, size, life, firstBack }) {
        Object.assign(this, { dialect, settings, encode, size, life });
        this.handshake = new Handshake(dialect, name, life);
        this.pool = new SidPool(settings.sessionIds);
        this.turns = new PeerTurns(settings.maxAnswerBytes);
        this.#nextBack = firstBack;
    }

    // -- what is known --

    get canTell() {
        return this.peer !== "classic" && this.isConnected;
    }

    /** Whether what this side says in a session has exact fields. */
    isExact(dialogue) {
        return dialogue.exact !== null || (this.dialect.asksExactly && !dialogue.incoming);
    }

    /** The events that were left since the last call. */
    take() {
        const left = this.events;
        if (left.length) this.events = [];
        return left;
    }

    all() {
        return [...this.own.values(), ...this.peers.values()];
    }

    #emit(kind, event) {
        this.events.push({ kind, ...event });
    }

    #drop(reason, sid, detail = "") {
        this.counters[reason] += 1;
        this.#emit("dropped", { reason, sid, detail });
    }

    /** Have a frame sent with nothing of the application's in it, and return it; null where it has no form. */
    #say(sid, life, header, must = false) {
        const frame = this.#frame(sid, life, header);
        if (frame !== null) this.#emit("say", { frame, must });
        return frame;
    }

    #frame(sid, life, header) {
        try {
            return this.encode(this.dialect.put(this.dialect.open({}, sid, true), { ...header, life }));
        } catch (error) {
            if (error instanceof MessageError) return null; // the text of a refusal is too long, say
            throw error;
        }
    }

    #find(sid, own) {
        return (own ? this.own : this.peers).get(sid) ?? null;
    }

    #exact(dialogue) {
        return (dialogue.exact ??= new ExactState(this.life));
    }

    // -- messages that come --

    /** Take a message of the peer's. Never throws. The events. */
    receive(message, now) {
        const fields = this.dialect.fieldsOf(message);
        const sid = fields === null ? null : this.dialect.sidOf(fields);
        if (sid === null) {
            this.#receivePlain(message, fields);
        } else if (!this.#speaksExactly(fields, sid)) {
            this.#receiveClassic(message, sid, now);
        } else {
            const header = this.dialect.headerOf(fields);
            if (header === null) {
                this.#drop("malformed", sid, "a field of the exact wire is not what it must be");
                return this.take();
            }
            const own = this.#isOwn(header, sid);
            if (own !== null) {
                if (header.turn !== undefined || header.re !== undefined || header.life !== undefined) this.peer = "exact";
                this.#receiveExact(message, header, sid, now, own);
            }
        }
        return this.take();
    }

    /** Whether the exact names in a message mean something: not in a session that was asked classically, nor from a
     * peer that has never spoken exactly, since a plain device may have a field of that name. */
    #speaksExactly(fields, sid) {
        if (!this.dialect.hasExactField(fields)) return false;
        const { turn, re, life, part } = this.dialect.names;
        const has = (name) => ownField(fields, name) !== undefined && fields[name] !== null;
        const dialogue = this.own.get(sid);
        if (dialogue !== undefined && dialogue.exact === null && !this.isExact(dialogue)) {
            // An exact peer's own session may have the same number: its questions say who opened it.
            if (has(life) && fields[life] === this.peerLife) return true;
            return has(turn) && has(life) && fields[life] !== this.life && this.#opens(fields);
        }
        if (this.peer === "exact") return true;
        if (!this.dialect.asksExactly) return this.#opens(fields);
        if (has(turn) || has(life) || has(re)) return true;
        // A small device that numbers its posts, and says no more; the reply to a turn it would not number.
        const isPost = Number.isInteger(ownField(fields, part)) && dialogue !== undefined && dialogue.turn === null;
        return isPost && this.peer === "unknown";
    }

    /** Whether a message is an exact question by which a peer can be known as exact. */
    #opens(fields) {
        return this.dialect.headerOf(fields)?.turn !== undefined;
    }

    // -- on the classic wire --

    #receiveClassic(message, sid, now) {
        const payload = this.dialect.payloadOf(message, false);
        const asks = this.dialect.isQuestion !== undefined && Boolean(this.dialect.isQuestion(message));
        const dialogue = (asks ? undefined : this.own.get(sid)) ?? this.peers.get(sid);
        if (dialogue !== undefined) {
            this.#deliver(dialogue, payload, now, asks);
        } else if (this.pool.has(sid) && !asks) {
            this.#stray(sid);
        } else if (!this.settings.takesSessions) {
            this.#drop("noHandler", sid);
        } else if (this.isClosing) {
            this.#drop("closing", sid);
        } else {
            const opened = this.#takeIn(sid);
            if (opened !== null) {
                this.#emit("opened", { dialogue: opened });
                this.#emit("received", { dialogue: opened, payload, question: 0 });
            }
        }
    }

    /** A message without exact fields for a session: the reply that its turn waits for, or one for the inbox. */
    #deliver(dialogue, payload, now, asks) {
        const turn = dialogue.turn;
        if (this.isExact(dialogue)) {
            if (this.#unmarked(dialogue, payload)) return;
        } else if (turn !== null && turn.sent && turn.state === "waiting" && !asks) {
            turn.advance("reply");
            turn.answered = true;
            this.counters.matched += 1;
            this.#emit("answered", { turn, payload });
            return;
        } else if (dialogue.unsafeUntil > now && !asks) {
            // The number's last owner was recycled with a turn waiting, and this session has not asked anything yet.
            this.#drop("late", dialogue.sid);
            return;
        }
        this.#emit("received", { dialogue, payload, question: 0 });
    }

    /** A reply for a number of this side's that no session has. It is never answered. */
    #stray(sid) {
        const reason = this.pool.heard(sid);
        const nothingWentRight = this.counters.matched + this.counters.accepted === 0;
        const isQuestion = reason === "late" && this.settings.takesSessions && nothingWentRight;
        const detail = "or the peer asks under a number of this side's, if both sides have the same sessionIds";
        this.#drop(reason, sid, isQuestion ? detail : "");
    }

    // -- on the exact wire --

    /** Whether a message is about a session of this side's: messages carry the life of the side that opened the session.
     * null: its side lives no more; the message was dropped. */
    #isOwn(header, sid) {
        const { life } = header;
        if (life === undefined) return this.pool.has(sid); // a small device that does not tell
        if (life === this.life) return true;
        if (life === this.peerLife) return false;
        if (this.#pastLives.includes(life)) {
            this.#drop("stalePeer", sid);
            return null;
        }
        if (this.pool.has(sid) && !header.new) {
            this.#drop("staleOwn", sid);
            return null;
        }
        if (this.peerLife !== null) {
            this.#pastLives = [...this.#pastLives, this.peerLife].slice(-PAST_LIVES);
            this.#forgetPeer();
        }
        this.peerLife = life;
        return false;
    }

    #receiveExact(message, header, sid, now, own) {
        const dialogue = this.#find(sid, own);
        const { turn, re, error, end } = header;
        if (end && turn === undefined && error === (re === undefined ? undefined : ENDED)) {
            this.#peerDone(dialogue, sid, header, now, own);
            return;
        }
        if (turn !== undefined && error !== undefined && re === undefined) {
            this.#askerGaveUp(dialogue, sid, header, now, own);
            return;
        }
        const bare = this.dialect.isBare(message);
        const payload = error === undefined ? this.dialect.payloadOf(message, true) : null;
        if (re !== undefined) {
            this.#replied(dialogue, sid, header, payload, now, own, bare);
        } else if (turn !== undefined) {
            this.#asked(dialogue, sid, header, payload, now, own, bare);
        } else {
            this.#posted(dialogue, sid, header, payload);
        }
    }

    /** A message that answers a turn; it may ask one as well. */
    #replied(dialogue, sid, header, payload, now, own, bare) {
        const turn = dialogue?.turn ?? null;
        if (turn === null || !this.#takes(turn, header)) {
            this.#strayAnswer(header.re, sid);
            if (header.turn !== undefined) this.#askedBesideAStray(dialogue, sid, header, now, own);
            return;
        }
        if (header.turn !== undefined && header.error === undefined && this.#askedBack(dialogue, header)) {
            this.#exact(dialogue);
            this.#beginBack(dialogue, header, now);
        }
        if (turn.arriving === null) this.#answered(dialogue, turn, header, payload, now);
        else this.#heard(dialogue, turn, header, payload, now, bare && header.end);
    }

    /** The peer says that it is done with a session, after the turn of this side's that it names. */
    #peerDone(dialogue, sid, header, now, own) {
        if (dialogue === null) {
            if (own && this.pool.wake(sid)) this.#emit("numberFree");
            return;
        }
        if (!own) {
            this.#giveUpSession(dialogue, PEER_ENDED, now);
            return;
        }
        const exact = this.#exact(dialogue);
        if (header.re !== undefined && header.re !== exact.lastTurn) {
            this.#drop("duplicate", sid); // it is about an earlier session of the number, or met the next turn
            return;
        }
        exact.advance("peerDone");
        if (dialogue.turn === null) this.#end(dialogue, PEER_ENDED, now); // else the turn's end is the session's
    }

    /** A message that neither asks nor answers a turn. */
    #posted(dialogue, sid, header, payload) {
        if (dialogue === null) {
            this.#drop("noSession", sid);
            return;
        }
        if (dialogue.exact !== null && header.part !== undefined) {
            if (header.part <= dialogue.exact.heard) {
                this.#drop("duplicate", sid);
                return;
            }
            dialogue.exact.heard = header.part;
        }
        this.#emit("received", { dialogue, payload, question: 0 });
    }

    // -- about the port itself --

    #receivePlain(message, fields) {
        const { handshake } = this;
        const header = handshake.read(fields);
        if (header === null || !(this.peer === "exact" || this.dialect.asksExactly || header.new)) {
            this.#emit("plain", { payload: message });
            return;
        }
        this.peer = "exact";
        if (header.new) {
            this.#sayPlain(handshake.welcome());
        } else if (header.end && header.turn !== undefined) {
            if (!handshake.peerClosing || header.turn < handshake.lastTaken) {
                handshake.lastTaken = header.turn;
                this.#refuseOpenings(header.turn); // said again, it refuses nothing more
            }
            handshake.peerClosing = true;
            this.#emit("peerClosing");
        } else if (header.end) {
            handshake.peerLeft = true;
        } else if (header.wait !== undefined) {
            this.#sayPlain(handshake.signOfLife());
        } else {
            const before = handshake.hostLife;
            if (handshake.welcomed(message) === false && before !== null) this.#reopened(false); // on the link that stands
        }
    }

    #sayPlain(message) {
        try {
            this.#emit("say", { frame: this.encode(message), must: false });
        } catch (error) {
            if (!(error instanceof MessageError)) throw error; // no number for it: a patience without an end, say
        }
    }

    /** The link is back. What was on its way is asked again, where the peer still knows this side. */
    reopened(known) {
        if (known) this.counters.resumed += 1;
        this.#reopened(known);
        return this.take();
    }

    #reopened(known) {
        if (known) {
            for (const turn of this.#waiting()) this.#emit("askAgain", { turn });
            return;
        }
        this.counters.forgotten += 1;
        this.handshake.peerClosing = false;
        this.#forgetPeer();
        for (const turn of this.#waiting()) {
            this.counters.aborted += 1;
            this.#giveUpTurn(turn, MEMORY_LOST);
        }
    }

    /** The peer began a new life: what it asked in the last one is over. */
    #forgetPeer() {
        for (const dialogue of [...this.peers.values()]) this.#end(dialogue, PEER_RESTARTED, 0);
        // A turn of the next life may have the same number.
        for (const { exact } of this.own.values()) if (exact !== null) exact.holding = 0;
        this.turns.stopStreams();
        this.turns = new PeerTurns(this.settings.maxAnswerBytes);
    }

    // -- commands: sessions --

    /** A new session of this side, for one turn alone where it is `once`. With `recycles` one is ended when no number is
     * free: the one opened first; where all are for one turn, the first of those. */
    open(now, recycles, once = false) {
        if (this.isDraining || this.handshake.peerClosing) {
            const why = this.isDraining ? "the port is being drained" : "the peer takes none";
            throw new PortClosedError(`no new session: ${why}`, { outcome: "not_sent" });
        }
        let sid = this.#takeNumber(now);
        let unsafeUntil = 0;
        if (sid === null) {
            this.#makeRoom(now, recycles);
            sid = this.#takeNumber(now);
        }
        if (sid === null) [sid, unsafeUntil] = this.pool.borrow();
        this.counters.opened += 1;
        const dialogue = new Dialogue(sid, false);
        dialogue.unsafeUntil = unsafeUntil;
        dialogue.once = once;
        this.own.set(sid, dialogue);
        if (!once) this.#byAge.add(dialogue);
        return dialogue;
    }

    #takeNumber(now) {
        return this.own.size >= this.settings.maxSessionCount ? null : this.pool.take(now);
    }

    #makeRoom(now, recycles) {
        if (!recycles) {
            throw new OverflowError(
                `no session number is free, ${this.own.size} are in use and ${this.pool.resting} rest: ` +
                    "end sessions, or widen sessionIds and maxSessionCount",
                { outcome: "not_sent" },
            );
        }
        const [oldest = this.own.values().next().value] = this.#byAge;
        if (oldest === undefined) return; // all numbers rest: there is nothing to end
        this.counters.recycled += 1;
        this.#end(oldest, RECYCLED, now);
    }

    /** A session that the peer opens; null where all that there may be are at work. */
    #takeIn(sid) {
        const limit = this.settings.maxIncomingSessions;
        if (this.handlers >= limit) {
            // At twice as many, sessions were ended for others and their handlers take their time to notice.
            const [idle] = this.handlers >= 2 * limit ? [] : this.idlePeers;
            if (idle === undefined) {
                this.#drop("refused", sid);
                return null;
            }
            this.counters.recycled += 1;
            this.#end(idle, MADE_ROOM, idle.idleSince);
        }
        this.counters.accepted += 1;
        this.handlers += 1;
        const dialogue = new Dialogue(sid, true);
        this.peers.set(sid, dialogue);
        return dialogue;
    }

    /** A session is idle from now on. */
    rests(dialogue, now) {
        if (dialogue.ending !== null) return;
        dialogue.idleSince = now;
        const idle = dialogue.incoming ? this.idlePeers : this.idleOwn;
        idle.delete(dialogue);
        idle.add(dialogue);
    }

    /** Something goes on in a session. */
    isBusy(dialogue) {
        dialogue.idleSince = Infinity;
        (dialogue.incoming ? this.idlePeers : this.idleOwn).delete(dialogue);
    }

    /** End a session; the first ending counts. */
    end(dialogue, ending, now) {
        this.#end(dialogue, ending, now);
        return this.take();
    }

    #end(dialogue, ending, now, cancels = false) {
        if (dialogue.ending !== null) return;
        dialogue.ending = ending;
        const { turn, exact } = dialogue;
        if (turn !== null && this.#giveUpTurn(turn, ending)) this.counters[ending.counter] += 1;
        if (exact !== null) {
            this.#sayOver(dialogue, exact, ending);
            exact.stream?.wake();
            if (dialogue.incoming) {
                exact.memory = null;
                this.turns.close(dialogue.sid);
            }
        }
        this.#emit("ended", { dialogue, ending, cancels });
        this.isBusy(dialogue);
        if (dialogue.incoming) {
            this.peers.delete(dialogue.sid);
            return;
        }
        this.own.delete(dialogue.sid);
        this.#byAge.delete(dialogue);
        this.#giveNumberBack(dialogue, now);
        this.#emit("numberFree");
    }

    #giveNumberBack({ sid, exact, turn, owed, unsafeUntil }, now) {
        const safe = now + this.settings.sessionIdRest;
        const mayCome = exact !== null && this.peer === "exact" ? 0 : owed + (turn === null ? 0 : turn.sent - turn.answered);
        if (mayCome) this.pool.rest(sid, safe, mayCome);
        else if (exact?.opened === "told") this.pool.rest(sid, safe, 1); // until the peer says that it is done too
        else if (unsafeUntil) this.pool.rest(sid, unsafeUntil, Infinity); // how many are owed is not known any more
        else this.pool.giveBack(sid);
    }

    /** Tell the peer once that a session has ended here; a turn of its own is answered with an error. */
    #sayOver(dialogue, exact, ending) {
        const { key } = dialogue;
        if (!this.canTell || exact.opened === "done") {
            this.turns.stop(key);
            return;
        }
        const wasTold = exact.opened === "told";
        this.#leave(dialogue, ending.code || UNANSWERED);
        if (wasTold || exact.isOver) return;
        if (dialogue.incoming) {
            exact.advance("tell");
            const last = this.turns.last(key);
            this.#say(dialogue.sid, exact.life, last ? { re: last, error: ENDED, end: true } : { end: true });
        } else {
            this.#endOwn(dialogue, ending.code || ENDED);
        }
    }

    handlerDone() {
        this.handlers -= 1;
    }

    // -- commands: this side's turns --

    /** Whether a reply of the past may be taken for the answer to the next turn under this number. */
    isUnsafe(dialogue) {
        if (!dialogue.owed && !dialogue.unsafeUntil) return false;
        return !this.isExact(dialogue) || this.peer === "classic";
    }

    /** Give a session a number that no late reply can reach: null, or the moment to ask again. */
    renew(dialogue, now) {
        if (!dialogue.owed && dialogue.unsafeUntil <= now) {
            dialogue.unsafeUntil = 0;
            return null;
        }
        if (dialogue.owed) dialogue.unsafeUntil = now + this.settings.sessionIdRest;
        const fresh = this.pool.take(now);
        if (fresh === null) {
            dialogue.owed = 0; // it keeps its number, which rests in its hands
            return Math.min(dialogue.unsafeUntil, this.pool.nextSafe());
        }
        this.pool.rest(dialogue.sid, dialogue.unsafeUntil, dialogue.owed || Infinity);
        this.own.delete(dialogue.sid);
        Object.assign(dialogue, { sid: fresh, owed: 0, unsafeUntil: 0 });
        this.own.set(fresh, dialogue);
        return null;
    }

    #number(dialogue, exact) {
        return (exact.lastTurn = dialogue.incoming ? this.#nextBack++ : this.#next++);
    }

    /** Give a turn of the exact wire its number, and `total` seconds from its start. On the classic wire: nothing. */
    begin(turn, total, arriving = null) {
        const { dialogue } = turn;
        turn.deadline = turn.started + total;
        if (!this.isExact(dialogue)) return;
        const exact = this.#exact(dialogue);
        turn.number = this.#number(dialogue, exact);
        if (arriving !== null) {
            turn.state = "listening";
            turn.arriving = arriving;
        }
        const isOwed = exact.holding && exact.stream === null;
        if (isOwed && this.turns.running(dialogue.key) === exact.holding) turn.answers = exact.holding;
    }

    /** The frame of one attempt, which says how long the turn still waits. Throws a MessageError. */
    ask(turn, payload, within) {
        const { dialogue, arriving } = turn;
        const message = this.dialect.open(payload, dialogue.sid, turn.number > 0);
        if (!turn.number) return this.encode(message);
        const exact = this.#exact(dialogue);
        const header = { turn: turn.number };
        if (turn.answers) header.re = turn.answers;
        else if (exact.mustOpen && !dialogue.incoming) header.new = true;
        if (dialogue.once) header.end = true;
        if (arriving !== null) {
            header.credit = arriving.grant(true);
            header.part = arriving.next;
        }
        if (within <= LONGEST_WAIT) header.wait = Math.max(within, SHORTEST_WAIT);
        header.life = exact.life;
        const frame = this.encode(this.dialect.put(message, header));
        if (turn.answers) {
            const held = this.#owedTo(dialogue, exact, turn.answers);
            if (held !== null) this.#isAnswered(exact, held, frame);
        }
        return frame;
    }

    /** The frame that gives the peer more credit for a turn; null where nobody is to be told. */
    grant(turn, credit) {
        const { dialogue } = turn;
        if (!this.canTell || dialogue.ending !== null) return null;
        return this.#frame(dialogue.sid, this.#exact(dialogue).life, { turn: turn.number, credit });
    }

    /** A turn that waits is over without an answer. */
    giveUp(turn, ending) {
        if (this.#giveUpTurn(turn, ending)) this.counters[ending.counter] += 1;
        return this.take();
    }

    #giveUpTurn(turn, ending) {
        if (turn.state === "idle") return false;
        turn.advance("giveUp");
        this.#emit("givenUp", { turn, ending });
        return true;
    }

    /** A turn leaves its session. Without its answer an exact peer is told `code`. */
    turnOver(turn, code, now) {
        const { dialogue } = turn;
        dialogue.turn = null;
        if (turn.number && this.#turnLeft(turn, code)) this.#end(dialogue, PEER_ENDED, now);
        if (turn.state !== "idle") turn.advance("giveUp");
        const endsHere = this.settings.onUnanswered === "end";
        if (turn.number && this.peer === "exact") {
            if (!turn.answered && endsHere) this.#end(dialogue, LEFT_UNANSWERED, now);
        } else if (dialogue.ending === null) {
            dialogue.owed += turn.sent - turn.answered;
            if (dialogue.owed && endsHere) this.#end(dialogue, LEFT_UNANSWERED, now);
        }
        return this.take();
    }

    /** Tell the peer once of a turn that has left without its answer. Whether the peer is done with the session. */
    #turnLeft(turn, code) {
        const { dialogue } = turn;
        const exact = this.#exact(dialogue);
        const peerDone = exact.opened === "done" && !dialogue.incoming;
        if (turn.answered) return peerDone;
        const wasOver = exact.isOver;
        exact.advance(turn.sent ? "unanswered" : "unsent");
        if (this.peer !== "exact") exact.isCautious = true;
        this.#givenUp.add(turn.number);
        if (this.#givenUp.size > MAX_GIVEN_UP) {
            const [oldest] = this.#givenUp;
            this.#givenUp.delete(oldest);
        }
        if (wasOver || !turn.sent || !this.canTell) return peerDone; // one that never left is nothing to the peer
        if (dialogue.once) exact.advance("tell");
        const end = dialogue.once ? { end: true } : {};
        this.#say(dialogue.sid, exact.life, { turn: turn.number, error: code, ...end });
        return peerDone;
    }

    /** Tell the peer that a session of this side is over, its last turn included, where there is need to. */
    #endOwn(dialogue, code) {
        const exact = this.#exact(dialogue);
        const { turn } = dialogue;
        if (!exact.lastTurn || !(exact.opened !== "fresh" || turn?.sent)) return; // the peer has never heard of it
        if (dialogue.once && (turn === null || turn.answered)) return; // its only message said so
        this.#say(dialogue.sid, exact.life, { turn: exact.lastTurn, error: code, end: true });
        exact.advance("tell");
    }

    /** Exact turns whose message left, and that wait for the answer. */
    #waiting() {
        const turns = this.all().map((dialogue) => dialogue.turn);
        return turns.filter((turn) => turn !== null && turn.number && turn.sent && turn.state !== "idle");
    }

    /** Refuse the turns above `last` that open a session: the peer took none of them, and will take none. */
    #refuseOpenings(last) {
        for (const turn of this.#waiting()) {
            const exact = this.#exact(turn.dialogue);
            if (turn.number <= last || !exact.mustOpen || turn.dialogue.incoming) continue;
            turn.advance("error");
            if (turn.arriving !== null) {
                turn.arriving.close({ isReply: false, isLast: true, error: CLOSING });
                exact.advance("unanswered");
            }
            this.#failed(turn, joinError(CLOSING, "the peer takes no new sessions"));
        }
    }

    // -- answers that come --

    /** Whether an answer is for this turn, and that still waits for one. */
    #takes(turn, header) {
        return turn.would(turn.number === header.re && turn.sent ? eventOf(header) : "stray") !== "count";
    }

    #answered(dialogue, turn, header, payload, now) {
        const exact = this.#exact(dialogue);
        const action = turn.advance(eventOf(header));
        if (action === "postpone") {
            this.#postpone(turn, header.wait, now);
        } else if (action === "raise") {
            exact.advance("unanswered"); // what failed there is opened anew by the next turn
            this.#failed(turn, header.error);
        } else {
            exact.advance("answered");
            this.counters.matched += 1;
            turn.answered = true;
            this.#emit("answered", { turn, payload });
        }
    }

    /** One of many answers, or their end. */
    #heard(dialogue, turn, header, payload, now, isEndMark) {
        const { arriving } = turn;
        this.#exact(dialogue).advance("answered"); // but where it fails
        if (turn.deadline < now) {
            this.#drop("late", dialogue.sid);
            return;
        }
        const { error, part, wait } = header;
        if (error === undefined && wait !== undefined && header.turn === undefined) {
            turn.advance("busy");
            this.#postpone(turn, wait, now);
            return;
        }
        const isLast = header.end || error !== undefined || part === undefined;
        const item = { payload, isReply: !isEndMark && error === undefined, isLast, error };
        const isAwaited = !arriving.ready.length;
        let event = error === undefined ? "reply" : "error";
        if (part === undefined) arriving.close(item);
        else event = arriving.arrive(part, item);
        if (event === "last" && arriving.last.error !== undefined) event = "error";
        this.#listened(dialogue, turn, turn.advance(event), item, isAwaited);
    }

    #listened(dialogue, turn, action, item, isAwaited) {
        const { arriving } = turn;
        if (action === "count") {
            this.#drop("duplicate", dialogue.sid);
        } else if (action === "stopOverrun") {
            this.counters.overrun += 1;
            this.#emit("overrun", { turn });
        } else {
            if (item.isReply) this.counters.matched += 1;
            if (action === "raise") {
                this.#exact(dialogue).advance("unanswered");
                this.#failed(turn, arriving.last.error);
                return;
            }
            turn.answered = arriving.last !== null;
            if (action !== "hold" && (isAwaited || turn.answered)) this.#emit("heard", { turn });
        }
    }

    /** A message without exact fields in an exact session. Whether it was taken: else it is for the inbox. */
    #unmarked(dialogue, payload) {
        const { turn } = dialogue;
        if (turn === null || !turn.sent || this.peer === "exact" || turn.would("unmarked") === "keep") return false;
        this.peer = "classic";
        if (this.#exact(dialogue).isCautious) {
            this.#drop("late", dialogue.sid); // it may answer the turn before: the next one has a fresh number
            return true;
        }
        turn.advance("unmarked");
        this.counters.classic += 1;
        this.counters.matched += 1;
        turn.answered = true;
        if (turn.arriving === null) {
            this.#emit("answered", { turn, payload });
        } else {
            turn.arriving.close({ payload, isReply: true, isLast: true });
            this.#emit("heard", { turn });
        }
        return true;
    }

    /** Put the next attempt off, never past the whole time of the turn. Where that has no end, by no more than the turn
     * has taken so far: the peer says how long it has been at work. */
    #postpone(turn, wait, now) {
        const most = turn.deadline === Infinity ? Math.min(wait, now - turn.started) : wait;
        this.#emit("postponed", { turn, until: Math.min(now + most, turn.deadline) });
    }

    #failed(turn, error) {
        this.counters.failed += 1;
        turn.answered = true;
        const [code, text] = splitError(error);
        this.#emit("refused", { turn, code, text, outcome: isRefusal(code) ? "refused" : "sent" });
    }

    #strayAnswer(number, sid) {
        if (this.#givenUp.delete(number)) this.#drop("late", sid);
        else if (number < this.#next || (number >= FIRST_BACK && number < this.#nextBack)) this.#drop("duplicate", sid);
        else this.#drop("unknownSid", sid);
    }

    // -- turns that the peer asks --

    /** A message that asks a turn, for the first time or again. */
    #asked(dialogue, sid, header, payload, now, own, bare) {
        const key = own ? -sid : sid;
        const streamed = header.credit !== undefined;
        if (streamed && header.part === undefined && !header.new && bare) {
            this.#granted(key, header);
            return;
        }
        const posts = header.wait === 0;
        const event = this.turns.asked(key, header.turn, { streamed, part: header.part || 1, posts });
        if (event === "askNext" || event === "streamNext" || event === "pass") {
            this.#run(dialogue, sid, header, payload, event, now, own);
        } else if (event === "streamRest") {
            this.#quitTurn(dialogue, key, header.turn, event, now);
            this.#say(sid, header.life, { re: header.turn, error: FORGOTTEN });
        } else {
            this.#askedAgain(dialogue, key, header, this.turns.advance(key, event), now);
        }
    }

    /** An answer asks a turn: whether that is a new one. */
    #askedBack(dialogue, { turn, credit, wait }) {
        const event = this.turns.asked(dialogue.key, turn, { streamed: credit !== undefined, posts: wait === 0 });
        return event === "askNext" || event === "streamNext" || event === "pass";
    }

    /** Begin a turn that an answer asks: what the application says next in the session answers it. */
    #beginBack(dialogue, header, now) {
        const { exact } = dialogue;
        const event = header.credit === undefined ? "askNext" : "streamNext";
        this.#begin(dialogue, exact, header, header.wait === 0 ? "pass" : event, now);
        const held = this.turns.held(dialogue.key);
        exact.holding = held?.running ?? 0;
        exact.stream = held?.stream ?? null;
    }

    /** A turn in a message that answers one which nobody waits for: it is the same again, or too late. */
    #askedBesideAStray(dialogue, sid, header, now, own) {
        const key = own ? -sid : sid;
        const event = this.turns.asked(key, header.turn);
        if (event === "askNext") this.#say(sid, header.life, { re: header.turn, error: LATE });
        else this.#askedAgain(dialogue, key, header, this.turns.advance(key, event), now);
    }

    #askedAgain(dialogue, key, header, action, now) {
        const sid = Math.abs(key);
        const held = this.turns.held(key);
        const stream = action === "resend" || action === "repeat" ? (held?.stream ?? null) : null;
        if (stream !== null && this.#askedForParts(dialogue, held, stream, header, now)) return;
        if (header.wait === 0) {
            this.#drop("duplicate", sid); // a post: no answer is waited for
        } else if (action === "progress" || action === "resend") {
            this.counters.repeated += 1;
            const began = dialogue?.exact?.began ?? Infinity;
            this.#say(sid, header.life, { re: header.turn, wait: Math.max(0, Math.round((now - began) * 1000) / 1000) });
        } else if (action === "repeat") {
            this.counters.repeated += 1;
            this.#emit("repeat", { frames: [...(held?.frames ?? [])], stream: null });
        } else if (action === "deny") {
            this.#say(sid, header.life, { re: header.turn, error: FORGOTTEN });
        } else {
            this.#drop("duplicate", sid);
        }
    }

    /** Send parts again. False where there is nothing to send again. */
    #askedForParts(dialogue, held, stream, header, now) {
        const part = header.part || 1;
        const sid = Math.abs(held.key);
        if (part <= stream.acked) {
            this.#drop("duplicate", sid); // a copy of an attempt that is long past
            return true;
        }
        const waited = stream.waiting > 0 && stream.spent >= stream.credit;
        stream.grant(header.credit ?? 0, part);
        this.turns.forgetParts(held);
        if (part < stream.firstKept) {
            this.#say(sid, header.life, { re: header.turn, error: FORGOTTEN });
            if (dialogue?.incoming) this.#giveUpSession(dialogue, OUTGROWN, now);
            else this.turns.giveUp(held.key, held.turn);
            return true;
        }
        const again = held.frames.slice(part - stream.firstKept);
        if (again.length) {
            this.counters.repeated += 1;
            this.#emit("repeat", { frames: again, stream });
        }
        // A handler that waited for this credit answers now: then the asker need not be told that it is at work.
        return again.length > 0 || stream.isComplete || (waited && stream.spent < stream.credit);
    }

    /** More credit for a turn with many answers. */
    #granted(key, header) {
        const held = this.turns.held(key);
        const action = this.turns.advance(key, this.turns.granted(key, header.turn));
        if (action === "advance" && held?.stream) {
            held.stream.grant(header.credit);
            this.turns.forgetParts(held);
        } else {
            this.#drop("duplicate", Math.abs(key));
        }
    }

    /** Give a turn that is above all before it to its session, which it may open. */
    #run(dialogue, sid, header, payload, event, now, own) {
        this.#marksOpenings ||= header.new;
        if (dialogue !== null && header.new && !own) {
            this.#giveUpSession(dialogue, REPLACED, now);
            dialogue = null;
        }
        if (dialogue === null) {
            const refusal = this.#refusal(header, sid, own);
            dialogue = refusal === null ? this.#takeIn(sid) : null;
            if (dialogue === null) {
                this.#refuse(own ? -sid : sid, header, refusal ?? FULL);
                return;
            }
            dialogue.exact = new ExactState(header.life, this.turns.open(sid));
            this.#begin(dialogue, dialogue.exact, header, event, now);
            dialogue.exact.isFinal = header.end;
            this.#emit("opened", { dialogue });
        } else {
            dialogue.exact ??= new ExactState(header.life, dialogue.incoming ? this.turns.open(sid) : null);
            this.#begin(dialogue, dialogue.exact, header, event, now);
            dialogue.exact.isFinal = header.end;
        }
        this.#emit("received", { dialogue, payload, question: this.turns.running(dialogue.key) });
    }

    /** From now on the turn runs; or wants no answer. */
    #begin(dialogue, exact, header, event, now) {
        this.turns.advance(dialogue.key, event, header.turn, event === "streamNext" ? header.credit : 0);
        if (event === "pass") return;
        exact.began = now;
        exact.due = header.wait !== undefined && this.settings.deadlines ? now + header.wait : Infinity;
    }

    /** Do not run a turn, nor a copy of it that comes when it could be run: the refusal is its answer. */
    #refuse(key, header, code) {
        const { turn } = header;
        if (header.wait === 0) {
            this.turns.advance(key, "pass", turn);
            return;
        }
        this.turns.advance(key, "askNext", turn);
        const frame = this.#say(Math.abs(key), header.life, { re: turn, error: code });
        if (frame === null) this.turns.stop(key);
        else this.turns.answer(this.turns.held(key), frame, this.size(frame));
    }

    /** The reason for which a session is not opened for a turn. */
    #refusal(header, sid, own) {
        const [reason, code] =
            own || (this.#marksOpenings && !header.new)
                ? ["noSession", NO_SESSION]
                : !this.settings.takesSessions
                  ? ["noHandler", NO_HANDLER]
                  : this.isClosing
                    ? ["closing", CLOSING]
                    : [null, null];
        if (reason !== null) this.#drop(reason, sid);
        return code;
    }

    /** A message by which the asker gives a turn up, and with it perhaps the session. */
    #askerGaveUp(dialogue, sid, header, now, own) {
        const key = own ? -sid : sid;
        const { turn } = header;
        const isPast = turn < this.turns.last(key); // its number may be another session's by now
        this.#quitTurn(dialogue, key, turn, this.turns.quit(key, turn), now);
        if (!header.end || own || isPast) return;
        if (dialogue !== null) {
            dialogue.exact?.advance("peerDone");
            this.#end(dialogue, PEER_ENDED, now);
        }
        this.#say(sid, header.life, { re: turn, error: ENDED, end: true });
    }

    /** A turn is over, and will not be run; what runs under its number is wanted no more. */
    #quitTurn(dialogue, key, turn, event, now) {
        const wasRunning = this.turns.running(key);
        this.turns.advance(key, event, event === "quitOlder" ? 0 : turn);
        if (!wasRunning || event === "quitOlder") return;
        this.counters.givenUp += 1;
        if (dialogue?.exact) {
            dialogue.exact.holding = 0;
            if (dialogue.incoming) this.#giveUpSession(dialogue, GIVEN_UP, now);
        }
    }

    /** End a session that nobody wants any more, nor the turn that runs in it. */
    #giveUpSession(dialogue, ending, now) {
        if (dialogue.exact !== null) {
            dialogue.exact.advance("peerDone");
            this.turns.stop(dialogue.key);
        }
        this.#end(dialogue, ending, now, true);
    }

    // -- commands: what this side answers and says --

    /** The application has the message that asks a turn: what it says next in the session answers that. */
    hold(dialogue, question) {
        const { exact } = dialogue;
        const held = this.#owedTo(dialogue, exact, question);
        if (held !== null) {
            exact.holding = question;
            exact.stream = held.stream;
        }
    }

    /** The memory of a turn while it runs, and can be answered; else null. */
    #owedTo(dialogue, exact, turn) {
        const held = exact.memory ?? this.turns.held(dialogue.key);
        return held && held.turn === turn && isAtWork(held.state) ? held : null;
    }

    #isAnswered(exact, held, frame) {
        this.turns.answer(held, frame, this.size(frame));
        exact.holding = 0;
        exact.due = Infinity;
    }

    /** The frame of a message that wants no reply: `{frame, answers, opens}`, where answers is the turn of the peer's
     * that it answers (0: none), and opens tells whether it opens the session. Throws a MessageError. */
    post(dialogue, payload) {
        const isExact = this.isExact(dialogue);
        const message = this.dialect.open(payload, dialogue.sid, isExact);
        if (!isExact) return { frame: this.encode(message), answers: 0, opens: false };
        const exact = this.#exact(dialogue);
        const held = exact.holding ? this.#owedTo(dialogue, exact, exact.holding) : null;
        const opens = held === null && exact.mustOpen && !dialogue.incoming && !dialogue.turn?.isAsked;
        // What opens a session is a turn, so that a copy of it cannot open it again, but one that waits 0 seconds.
        const header =
            held !== null
                ? { re: held.turn }
                : opens
                  ? { turn: this.#number(dialogue, exact), new: true, wait: 0 }
                  : { part: ++exact.posted };
        const frame = this.encode(this.dialect.put(message, { ...header, life: exact.life }));
        const answers = held === null ? 0 : held.turn;
        if (held !== null) this.#isAnswered(exact, held, frame);
        else if (opens) exact.advance("posted");
        return { frame, answers, opens };
    }

    /** A post was not sent after all. */
    notPosted(dialogue, { answers, opens }) {
        const { exact } = dialogue;
        if (exact === null) return;
        if (opens) exact.advance("unsent");
        if (answers && dialogue.ending === null && this.turns.unanswer(dialogue.key, answers)) exact.holding = answers;
    }

    /** The answer is on its way: a session whose opener wants no more is over. */
    answerSent(dialogue, now) {
        if (dialogue.exact?.isFinal) {
            dialogue.exact.advance("peerDone");
            this.#end(dialogue, PEER_ENDED, now);
        }
        return this.take();
    }

    /** The frame of the next of many answers, numbered and kept: there is room for it, and it is sent at once. */
    part(dialogue, payload, now, isLast) {
        const { exact } = dialogue;
        const { stream } = exact;
        const held = exact.memory ?? this.turns.held(dialogue.key);
        const header = { re: exact.holding, part: stream.made + 1, end: isLast ? true : undefined, life: exact.life };
        const frame = this.encode(this.dialect.put(this.dialect.open(payload, dialogue.sid, true), header));
        exact.began = now; // how long it takes for the next: what an attempt is put off by
        this.turns.addPart(held, frame, this.size(frame), isLast ? "finish" : "part");
        if (isLast) this.#completed(exact, stream);
        return frame;
    }

    #completed(exact, stream) {
        exact.holding = 0;
        if (exact.stream === stream) exact.stream = null;
        exact.due = Infinity;
        stream.stop();
    }

    /** No answer will come to the turn that runs in a session: its asker is told. */
    leave(dialogue, code, text = "") {
        this.#leave(dialogue, code, text);
        return this.take();
    }

    #leave(dialogue, code, text = "") {
        const { exact, sid } = dialogue;
        const held = this.turns.held(dialogue.key);
        if (exact === null || !held?.running) return;
        if (this.#find(sid, !dialogue.incoming) !== dialogue) return; // the number is another session's by now
        const { turn, stream } = held;
        const header = { re: turn, error: joinError(code, text), end: true };
        if (stream !== null) header.part = stream.made + 1;
        const frame = this.#say(sid, exact.life, header, true);
        if (frame === null) {
            this.turns.giveUp(held.key, turn);
        } else if (stream === null) {
            this.turns.advance(held.key, "leave");
            this.turns.store(held, frame, this.size(frame));
            exact.holding = 0;
        } else {
            this.turns.addPart(held, frame, this.size(frame), "leave");
            this.#completed(exact, stream);
        }
        exact.advance("peerDone");
    }

    /** The time of the asker is over, by this side's clock: it waits no more, or will be told when it asks again. */
    stop(dialogue) {
        this.turns.stop(dialogue.key);
        dialogue.exact?.advance("peerDone");
    }

    /** The frame of a message that is no session's. Throws a MessageError. */
    plain(payload) {
        this.dialect.checkPlain(payload);
        return this.encode(payload);
    }

    // -- commands: the port --

    /** Take no new sessions; an exact peer is told the last turn that was taken. */
    drain() {
        this.isDraining = this.isClosing = true;
        if (this.peer === "exact") this.#sayPlain(this.handshake.closing(this.turns.highest));
        return this.take();
    }

    /** Whether nothing is open or at work. */
    get isDrained() {
        return this.own.size + this.peers.size + this.handlers === 0;
    }

    askForLife(patience) {
        this.#sayPlain(this.handshake.askForLife(patience));
        return this.take();
    }

    /** The port is over: every session ends. */
    close(ending, now) {
        this.isClosing = true;
        if (ending.error === PortClosedError) this.isConnected = false;
        for (const dialogue of this.all()) this.#end(dialogue, ending, now);
        if (this.handshake.ticket !== null && this.canTell) this.#sayPlain(this.handshake.goodbye());
        return this.take();
    }
}
