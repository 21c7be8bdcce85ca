// Request/reply sessions over a WebSocket, for pages and for Node: the peer of a psession port.
//
//     import { connect } from "./psession.js";
//     const port = await connect("ws://127.0.0.1:8000");
//     const reply = await port.request({ command: "queryStatus" }, { timeout: 3, retryCount: 3 });
//
// All durations are seconds; Infinity is no limit. README.md is the guide, psession.d.ts says what each call takes.
// protocol.js is the machine, link.js the WebSocket; this file waits, wakes, sends and calls as the machine's events say.

import { HELLO_INTERVAL, Links, realClock, WELCOME_PATIENCE } from "./link.js";
import { ADVICE, AskedTurn, Arriving, Connection, CRASHED, DEFAULT_WINDOW, Dialect, endings } from "./protocol.js";
import { EXPECTED, FIRST_BACK, LARGEST, refusalCode, UNANSWERED } from "./protocol.js";
import { CancelError, InvalidError, MalformedMessageError, MessageTooLargeError, OverflowError } from "./protocol.js";
import { OverrunError, PortClosedError, RefusedError, RemoteError, SessionError, TimeoutError } from "./protocol.js";

export { AbortError, CancelError, InvalidError, MalformedMessageError, MessageError } from "./protocol.js";
export { MessageTooLargeError, OverflowError, OverrunError, PortClosedError, RefusedError } from "./protocol.js";
export { RemoteError, SessionError, TimeoutError } from "./protocol.js";

const LIVES = 2 ** 48; // a life is one of so many, by chance
const OTHERS_FIRST = 65536; // the first number that peers which count 1 to 65535 never use
const LOOK_AGAIN = 0.01; // seconds after which a socket that was full is looked at again: it tells nobody that it is not
const LINES_AT_ONCE = 3; // lines of one kind in the log, then one in so many seconds:
const SECONDS_A_LINE = 30;

// Where nothing else is said; "info", of what a good peer on a bad network may cause, would go to Node's standard output.
const WARNINGS = { warn: (...words) => console.warn(...words), error: (...words) => console.error(...words) };

const DEFAULTS = {
    dialect: "exact",
    timeout: 60,
    retryCount: 0,
    retryInterval: 1,
    onRequest: undefined,
    onSession: undefined,
    onMessage: undefined,
    onState: undefined,
    resumeWithin: 0,
    protocols: [],
    WebSocket: undefined,
    connectTimeout: 10,
    firstDelay: 0.1,
    maxDelay: 30,
    backoff: 2,
    jitter: 0.5,
    keepaliveInterval: 20, // a page does not see the pings of a WebSocket
    keepalivePatience: 10,
    grace: 1,
    sessionIdName: "sid",
    fields: {},
    isQuestion: undefined,
    sessionIds: undefined,
    sessionIdRest: 60,
    sessionMaxLife: 600,
    maxSessionCount: 65535,
    onSessionOverflow: "recycle",
    onUnanswered: "fresh",
    maxIncomingSessions: 4096,
    inboxLimit: 1024,
    maxHeldBytes: 16 * 2 ** 20,
    maxQueuedBytes: 256 * 2 ** 10,
    maxAnswerBytes: 4 * 2 ** 20,
    maxMessageBytes: 2 ** 20,
    deadlines: true,
    debug: false,
    logger: WARNINGS,
    signal: undefined,
    clock: realClock, // for tests, as is luck
    luck: Math.random,
};

const CHOICES = {
    dialect: ["exact", "classic"],
    onSessionOverflow: ["recycle", "refuse", "wait"],
    onUnanswered: ["fresh", "keep", "end"],
};

/** Open a port to the peer at a `ws:` or `wss:` URL. Resolves when the first link stands. */
export async function connect(url, options = {}) {
    const checked = checkOptions(options);
    checked.signal?.throwIfAborted();
    const engine = new Engine(String(url), checked);
    await engine.open();
    return new Port(engine);
}

// -- checks of what a caller passes -----------------------------------------------------------------------------------

function checkOptions(options) {
    refuseUnknown("connect()", options, Object.keys(DEFAULTS));
    const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value != null));
    const checked = { ...DEFAULTS, ...given, logger: options.logger === null ? null : (options.logger ?? DEFAULTS.logger) };
    const durations = ["timeout", "retryInterval", "resumeWithin", "connectTimeout", "firstDelay", "keepaliveInterval"];
    durations.push("keepalivePatience", "grace", "sessionIdRest", "sessionMaxLife", "maxDelay");
    for (const name of durations) checkSeconds(name, checked[name]);
    const counts = ["maxSessionCount", "maxIncomingSessions", "inboxLimit", "maxHeldBytes", "maxQueuedBytes"];
    for (const name of [...counts, "maxAnswerBytes", "maxMessageBytes"]) checkCount(name, checked[name]);
    checkRetries("retryCount", checked.retryCount);
    for (const name of ["onRequest", "onSession", "onMessage", "onState", "isQuestion"]) {
        const value = checked[name];
        if (value !== undefined && typeof value !== "function") {
            throw new TypeError(`${name} must be a function, not ${inWords(value)}`);
        }
    }
    for (const [name, choices] of Object.entries(CHOICES)) {
        if (!choices.includes(checked[name])) {
            const allowed = choices.map((choice) => `"${choice}"`).join(", ");
            throw new RangeError(`${name} must be one of ${allowed}, not ${inWords(checked[name])}`);
        }
    }
    if (checked.maxDelay === Infinity || checked.firstDelay > checked.maxDelay) {
        throw new RangeError("maxDelay must be finite, and no less than firstDelay");
    }
    if (!(checked.backoff >= 1 && checked.backoff < Infinity)) throw new RangeError("backoff must be 1 or more, and finite");
    if (!(checked.jitter >= 0 && checked.jitter < Infinity)) throw new RangeError("jitter must be 0 or more, and finite");
    if (checked.resumeWithin && checked.dialect !== "exact") {
        throw new RangeError('resumeWithin needs dialect: "exact": on the classic wire nobody can tell what was done');
    }
    if (typeof (checked.WebSocket ??= globalThis.WebSocket) !== "function") {
        throw new TypeError(
            'there is no WebSocket here (Node has one from version 22 on): pass one, such as that of the package "ws": ' +
                'import { WebSocket } from "ws"; connect(url, { WebSocket })',
        );
    }
    const takesSessions = Boolean(checked.onRequest ?? checked.onSession);
    const first = takesSessions ? OTHERS_FIRST : 1;
    checked.sessionIds ??= { first, last: first + checked.maxSessionCount - 1 };
    checkNumbers(checked.sessionIds);
    return { ...checked, takesSessions };
}

function checkNumbers({ first, last, step = 1 }) {
    for (const [name, value] of Object.entries({ first, last, step })) checkCount(`sessionIds.${name}`, value);
    if (last < first || last > LARGEST) {
        throw new RangeError(`sessionIds must go up, and stay below 2**53: {first: ${first}, last: ${last}} does not`);
    }
}

function refuseUnknown(what, options, known) {
    const unknown = Object.keys(options).filter((name) => !known.includes(name));
    if (unknown.length) throw new TypeError(`${what} has no option ${unknown.join(", ")}; there are ${known.join(", ")}`);
}

function checkSeconds(name, value) {
    if (typeof value !== "number" || !(value >= 0)) {
        throw new RangeError(`${name} must be 0 or more seconds (Infinity for no limit), not ${inWords(value)}`);
    }
}

function checkCount(name, value) {
    if (!Number.isSafeInteger(value) || value < 1) {
        throw new RangeError(`${name} must be a whole number, 1 or more, not ${inWords(value)}`);
    }
}

function checkRetries(name, value) {
    if (value !== Infinity && !(Number.isSafeInteger(value) && value >= 0)) {
        throw new RangeError(`${name} must be a whole number (Infinity for no limit), not ${inWords(value)}`);
    }
}

const inWords = (value) => (typeof value === "string" ? JSON.stringify(value) : String(value));

/** How long a turn may take, and how often it is tried. */
class Patience {
    constructor({ timeout, retryCount, retryInterval }) {
        Object.assign(this, { timeout, retryCount, retryInterval });
        const pauses = retryCount ? retryCount * retryInterval : 0;
        this.total = retryCount === Infinity ? Infinity : (retryCount + 1) * timeout + pauses;
    }

    /** The same with what a call says on top. */
    with({ timeout, retryCount, retryInterval }) {
        if ((timeout ?? retryCount ?? retryInterval) == null) return this;
        if (timeout != null) checkSeconds("timeout", timeout);
        if (retryCount != null) checkRetries("retryCount", retryCount);
        if (retryInterval != null) checkSeconds("retryInterval", retryInterval);
        return new Patience({
            timeout: timeout ?? this.timeout,
            retryCount: retryCount ?? this.retryCount,
            retryInterval: retryInterval ?? this.retryInterval,
        });
    }

    /** Seconds for the attempt of this number (1, 2, ...), the pause after it included. */
    within(attempt) {
        return this.timeout + (attempt <= this.retryCount ? this.retryInterval : 0);
    }
}

const PATIENCE = ["timeout", "retryCount", "retryInterval"];
const SEND = [...PATIENCE, "signal"];

// -- messages as text -------------------------------------------------------------------------------------------------

/** The bytes of a text in UTF-8. */
function bytesOf(text) {
    let bytes = text.length;
    for (let at = 0; at < text.length; at++) {
        const code = text.charCodeAt(at);
        if (code >= 0x800 && (code < 0xd800 || code > 0xdfff)) bytes += 2;
        else if (code >= 0x80) bytes += 1; // of a pair of surrogates, 4 bytes, each is one unit of two
    }
    return bytes;
}

/** What JSON would change without a word is refused. */
function asJson(key, value) {
    if (typeof value === "number" && !Number.isFinite(value)) {
        throw new MalformedMessageError(`"${key}" is ${value}, which JSON has no form for`);
    }
    if (value instanceof Map || value instanceof Set || typeof value === "function" || typeof value === "symbol") {
        throw new MalformedMessageError(`"${key}" is no value of JSON's: ${Object.prototype.toString.call(value)}`);
    }
    if (value === undefined && Array.isArray(this)) {
        throw new MalformedMessageError(`item ${key} of a list is undefined, which JSON has no form for: say null`);
    }
    return value;
}

const HALF_A_PAIR = /(^|[^\\])(\\\\)*\\ud[89a-f]/; // a lone surrogate, as JSON.stringify escapes it
/** A text of the peer's, made safe for a log: a line break in it would forge a line. */
const printable = (text) => text.replace(/\p{C}/gu, (char) => `\\u{${char.codePointAt(0).toString(16)}}`);

const MAY_OVERFLOW = /[eE]\+?\d{3}|\d{309}/; // a number that JSON.parse may make Infinity of
const utf8 = new TextDecoder("utf-8", { fatal: true });

/** A message of what came; throws where it is none. */
function fromJson(data, most) {
    const text = typeof data === "string" ? data : utf8.decode(data);
    if (text.length > most || (3 * text.length > most && bytesOf(text) > most)) {
        throw new MessageTooLargeError(`it is longer than maxMessageBytes, ${most}`);
    }
    const isFinite = (key, value) => {
        if (value === Infinity || value === -Infinity) throw new MalformedMessageError(`"${key}" is no number that fits`);
        return value;
    };
    return MAY_OVERFLOW.test(text) ? JSON.parse(text, isFinite) : JSON.parse(text);
}

// -- the queue of what is to be sent ----------------------------------------------------------------------------------

/** Frames on their way to the socket. What is in here can be withdrawn; posts wait where it is full. */
class Outbox {
    queuedBytes = 0;
    waitingBytes = 0; // of posts that wait for room
    isClosed = false;
    #queue = new Set();
    #forRoom = []; // { run, owner, size }
    #engine;
    #isLooking = false;

    constructor(engine) {
        this.#engine = engine;
    }

    get hasRoom() {
        return this.#forRoom.length === 0 && this.queuedBytes < this.#engine.options.maxQueuedBytes;
    }

    /** Accept a frame. Its ticket says whether it is on its way. */
    put(frame, turn = null) {
        const ticket = { frame, turn, isWritten: false };
        this.#queue.add(ticket);
        this.queuedBytes += frame.size;
        this.flush();
        return ticket;
    }

    /** Take a frame back that is not on its way: it is never sent. */
    withdraw(ticket) {
        if (this.#queue.delete(ticket)) this.#unqueue(ticket.frame.size);
    }

    /** Give the socket what it takes; with `all` everything, since it is the last. */
    flush(all = false) {
        const { links, counters, clock } = this.#engine;
        for (const ticket of this.#queue) {
            if (!(links.isWritable || (all && links.stands))) break;
            this.#queue.delete(ticket);
            ticket.isWritten = true;
            if (ticket.turn !== null) ticket.turn.sent += 1;
            counters.sent += 1;
            counters.bytesSent += ticket.frame.size;
            links.send(ticket.frame.text);
            this.#unqueue(ticket.frame.size);
        }
        if (this.#queue.size && links.stands && !this.#isLooking && !this.isClosed) {
            this.#isLooking = true;
            clock.after(LOOK_AGAIN, () => {
                this.#isLooking = false;
                this.flush();
            });
        }
    }

    /** Call `run` when there is room, those before it first, or when `turnBack` or `close` is called: it finds out. */
    whenRoom(run, owner, size = 0) {
        const { maxHeldBytes } = this.#engine.options;
        if (this.waitingBytes + size > maxHeldBytes) {
            this.#engine.counters.unread += 1;
            throw new OverrunError(
                `not sent: the peer does not read, and ${this.waitingBytes} bytes wait for it already; ` +
                    "await a post before the next one, or raise maxHeldBytes",
                { outcome: "not_sent" },
            );
        }
        this.waitingBytes += size;
        this.#forRoom.push({ run, owner, size });
    }

    /** The posts of an owner's that wait for room may not be sent any more. */
    turnBack(owner) {
        this.#runAll((waiting) => waiting.owner === owner);
    }

    /** Accept nothing more. */
    close() {
        this.isClosed = true;
        this.flush(true);
        this.#queue.clear();
        this.queuedBytes = 0;
        this.#runAll(() => true);
    }

    #runAll(which) {
        const these = this.#forRoom.filter(which);
        this.#forRoom = this.#forRoom.filter((waiting) => !which(waiting));
        for (const { run, size } of these) {
            this.waitingBytes -= size;
            run();
        }
    }

    #unqueue(size) {
        this.queuedBytes -= size;
        while (this.#forRoom.length && this.queuedBytes < this.#engine.options.maxQueuedBytes) {
            const { run, size: waited } = this.#forRoom.shift();
            this.waitingBytes -= waited;
            run();
        }
    }
}

// -- the log: each kind of line within a budget, so that no peer fills it ---------------------------------------------

class Said {
    #said = new Set();
    #budgets = new Map();

    constructor(logger, clock) {
        this.logger = logger;
        this.clock = clock;
    }

    /** A line the first time. */
    once(level, about, text) {
        if (this.#said.has(about)) return;
        this.#said.add(about);
        this.logger?.[level]?.(`psession: ${text} (said once; see port.statistics())`);
    }

    /** A line about what somebody's code threw: three of a kind at once, then one in 30 seconds. */
    threw(what, where, error) {
        const now = this.clock.now();
        const budget = this.#budgets.get(what) ?? { tokens: LINES_AT_ONCE, since: now, skipped: 0 };
        this.#budgets.set(what, budget);
        budget.tokens = Math.min(LINES_AT_ONCE, budget.tokens + (now - budget.since) / SECONDS_A_LINE);
        budget.since = now;
        if (budget.tokens < 1) {
            budget.skipped += 1;
            return;
        }
        const more = budget.skipped ? ` (and ${budget.skipped} times more since the last such line)` : "";
        Object.assign(budget, { tokens: budget.tokens - 1, skipped: 0 });
        this.logger?.error?.(`psession: ${what} threw${where}${more}`, error);
    }
}

// -- the middle of a port ---------------------------------------------------------------------------------------------

/** What the sessions of one port share; it carries the machine's events out. */
class Engine {
    ending = null;
    needy = new Set(); // turns that wait for a session number that no late reply can reach
    atWork = new Set(); // requests that are being answered
    heldBytes = 0; // messages that nobody has received, and requests at work, as they came
    weight = 0; // the size of the message that is being taken
    #events = [];
    #isPerforming = false;
    #heard = 0; // the moment of the last message
    #forNumber = []; // who waits for a session number
    #cancelIdle = null;
    #cancelKeepalive = () => {};
    #cancelHello = () => {};
    #plainAtWork = false;
    #plain = [];
    #opened = null; // { resolve, reject }, while the first link is being opened
    #whenClosed = [];
    #whenDrained = [];
    #isClosed;
    #closed = new Promise((resolve) => (this.#isClosed = resolve)); // the socket is

    constructor(url, options) {
        const { clock, luck } = options;
        Object.assign(this, { options, clock, now: clock.now });
        const dialect = new Dialect({ ...options, asksExactly: options.dialect === "exact" });
        this.machine = new Connection({
            dialect,
            name: "psession.js",
            settings: options,
            encode: (message) => this.#encode(message),
            size: (frame) => frame.size,
            life: 1 + below(LIVES),
            firstBack: FIRST_BACK + below(FIRST_BACK),
        });
        this.counters = this.machine.counters;
        this.patience = new Patience(options);
        this.said = new Said(options.logger, clock);
        this.links = new Links(url, options, {
            handshake: this.machine.handshake,
            clock,
            luck,
            on: {
                stands: (known) => this.#stands(known),
                writable: () => this.outbox.flush(),
                data: (data) => this.#data(data),
                read: (data) => this.#read(data),
                over: (error, why) => this.#over(error, why),
                state: (state) => this.#state(state),
            },
        });
        this.outbox = new Outbox(this);
    }

    open() {
        const { signal } = this.options;
        return new Promise((resolve, reject) => {
            this.#opened = { resolve, reject };
            const abort = () => {
                reject(signal.reason);
                this.close(endings.portLeft("its signal was aborted"));
            };
            signal?.addEventListener("abort", abort, { once: true });
            this.#whenClosed.push(() => signal?.removeEventListener("abort", abort));
            this.#leaveWithPage();
            this.links.open(); // throws on a URL that is none, which rejects
        }).finally(() => {
            this.#opened = null;
        });
    }

    /** A page that is left may be kept, and its socket with it: then the peer would go on asking somebody who is not
     * there. One that may come back resumes; another says goodbye. */
    #leaveWithPage() {
        const leave = ({ persisted }) => {
            if (persisted && this.options.resumeWithin) this.links.drop(new Error("the page was left"));
            else this.close(endings.portLeft("the page was left"));
        };
        globalThis.addEventListener?.("pagehide", leave);
        this.#whenClosed.push(() => globalThis.removeEventListener?.("pagehide", leave));
    }

    // -- frames --

    #encode(message) {
        let text;
        try {
            text = JSON.stringify(message, asJson);
        } catch (error) {
            if (error instanceof MalformedMessageError) throw error;
            const why = `the payload cannot be written as JSON: ${error.message}`;
            throw new MalformedMessageError(why, { cause: error, outcome: "not_sent" });
        }
        if (HALF_A_PAIR.test(text)) {
            const why = "a text in the payload has half of a surrogate pair, which is no character and few peers can read";
            throw new MalformedMessageError(why, { outcome: "not_sent" });
        }
        const size = bytesOf(text);
        const { maxMessageBytes } = this.options;
        if (size > maxMessageBytes) {
            const why = `the message has ${size} bytes, and maxMessageBytes is ${maxMessageBytes}`;
            throw new MessageTooLargeError(why, { outcome: "not_sent" });
        }
        return { text, size };
    }

    #read(data) {
        this.#heard = this.now();
        const size = data.length ?? data.byteLength;
        this.counters.bytesReceived += size;
        this.weight = size;
        try {
            return fromJson(data, this.options.maxMessageBytes);
        } catch (error) {
            this.counters.malformed += 1;
            this.dropped({ reason: "malformed", detail: printable(error.message) });
            return undefined;
        }
    }

    #data(data) {
        const message = this.#read(data);
        if (message === undefined || this.ending !== null) return;
        let events;
        try {
            events = this.machine.receive(message, this.now());
        } catch (error) {
            this.crashed("isQuestion", error); // the only code of the user's that the machine calls
            events = this.machine.take();
        }
        this.perform(events);
    }

    /** Send a frame that nobody waits on, unless there is too much to write already: the peer asks again. With `must`
     * there is more room, for what the peer cannot recover. */
    say(frame, must = false) {
        const { maxQueuedBytes, maxAnswerBytes } = this.options;
        if (this.outbox.isClosed || this.outbox.queuedBytes >= maxQueuedBytes + (must ? maxAnswerBytes : 0)) return null;
        return this.outbox.put(frame);
    }

    /** Accept a post, at once where there is room. A promise where there is none. `check` throws where it may not go. */
    post(frame, check, owner) {
        if (this.outbox.hasRoom || this.outbox.isClosed) {
            check();
            this.outbox.put(frame);
            return undefined;
        }
        return new Promise((resolve, reject) => {
            const run = () => {
                try {
                    check();
                    this.outbox.put(frame);
                    resolve();
                } catch (error) {
                    reject(error);
                }
            };
            this.outbox.whenRoom(run, owner, frame.size);
        });
    }

    // -- events --

    /** Carry events out, in order; those that they lead to come behind them. */
    perform(events) {
        this.#events.push(...events);
        if (this.#isPerforming) return;
        this.#isPerforming = true;
        try {
            while (this.#events.length) {
                const event = this.#events.shift();
                DEEDS[event.kind](this, event);
            }
        } finally {
            this.#isPerforming = false;
        }
    }

    sessionOpened(dialogue) {
        const { onRequest, onSession } = this.options;
        // Beside onSession it gets what says that nothing will follow: a question of the exact wire that is the last.
        const isRequest = onRequest && (!onSession || dialogue.exact?.isFinal);
        if (isRequest) new Requests(this, dialogue);
        else new LiveSession(this, dialogue, this.patience).handle();
    }

    dropped({ reason, sid, detail }) {
        const place = sid === undefined ? "" : ` of session ${sid}`;
        const level = EXPECTED.has(reason) && !detail ? "info" : "warn";
        const text = `message${place} dropped (${reason}): ${ADVICE[reason]}${detail ? ` (${detail})` : ""}`;
        this.said.once(level, reason, text);
    }

    repeat({ frames, stream }) {
        if (stream?.again && !stream.again.isWritten) return; // one stream is queued once
        for (const frame of frames) {
            const ticket = this.say(frame, true);
            if (stream !== null) stream.again = ticket;
        }
    }

    /** A message that is no session's. An async onMessage has its messages one at a time. */
    plain({ payload }) {
        const { onMessage, inboxLimit, maxHeldBytes } = this.options;
        this.counters.plain += 1;
        const size = this.weight;
        let reason = null;
        if (onMessage === undefined) reason = "unheard";
        else if (this.#plain.length >= inboxLimit || this.heldBytes + size > maxHeldBytes) reason = "overrun";
        if (reason !== null) {
            this.counters[reason] += 1;
            this.dropped({ reason });
            return;
        }
        this.heldBytes += size;
        this.#plain.push({ payload, size });
        this.#nextPlain();
    }

    #nextPlain() {
        while (this.#plain.length && !this.#plainAtWork) {
            const { payload, size } = this.#plain.shift();
            this.heldBytes -= size;
            try {
                const result = this.options.onMessage(payload);
                if (typeof result?.then !== "function") continue;
                this.#plainAtWork = true;
                Promise.resolve(result)
                    .catch((error) => this.crashed("onMessage", error))
                    .finally(() => {
                        this.#plainAtWork = false;
                        this.#nextPlain();
                    });
            } catch (error) {
                this.crashed("onMessage", error);
            }
        }
    }

    /** Count and log what the user's code threw. */
    crashed(what, error, where = "") {
        this.counters.crashed += 1;
        this.said.threw(what, where, error);
    }

    // -- session numbers --

    /** A session of this side's. Throws an OverflowError where there is none, a PortClosedError where there may be none. */
    openSession(once = false) {
        this.checkOpen();
        let dialogue;
        try {
            dialogue = this.machine.open(this.now(), this.options.onSessionOverflow === "recycle", once);
        } finally {
            this.perform(this.machine.take());
        }
        return new LiveSession(this, dialogue, this.patience);
    }

    /** A session for one turn. Under "wait" a promise of one, or a timeout where no number came free in one attempt. */
    openOnce(patience, signal) {
        try {
            return this.openSession(true);
        } catch (error) {
            if (!(error instanceof OverflowError) || this.options.onSessionOverflow !== "wait") throw error;
        }
        return new Promise((resolve, reject) => {
            const begun = this.now();
            const until = begun + patience.timeout;
            let cancel = () => {};
            const leave = () => {
                cancel();
                this.#forNumber = this.#forNumber.filter((one) => one !== look);
                signal?.removeEventListener("abort", abort);
            };
            const abort = () => {
                leave();
                this.counters.cancelled += 1;
                reject(signal.reason);
            };
            const look = () => {
                leave();
                try {
                    resolve(this.openSession(true));
                } catch (error) {
                    if (!(error instanceof OverflowError)) reject(error);
                    else if (this.now() >= until) timeOut();
                    else wait();
                }
            };
            const timeOut = () => {
                this.counters.timedOut += 1;
                const why = "not sent: no session number came free in time";
                reject(new TimeoutError(why, { waited: this.now() - begun, outcome: "not_sent" }));
            };
            const wait = () => {
                this.#forNumber.push(look);
                signal?.addEventListener("abort", abort);
                cancel = this.clock.after(Math.min(until, this.machine.pool.nextSafe()) - this.now(), look);
            };
            if (signal?.aborted) abort();
            else wait();
        });
    }

    numberFree() {
        const [look] = this.#forNumber;
        const [turn] = this.needy;
        if (look !== undefined) look();
        else turn?.makeSafe();
    }

    wakeAllForNumbers() {
        for (const look of [...this.#forNumber]) look();
    }

    // -- time --

    /** A session is idle from now on: it ends after its life, unless something happens in it. */
    rests(dialogue) {
        this.machine.rests(dialogue, this.now());
        if (this.#cancelIdle === null && this.ending === null) this.#watchIdle();
    }

    /** Sessions become idle in the order in which their lives end, so the one in front says when to look next. */
    #watchIdle() {
        const { sessionMaxLife } = this.options;
        const since = [this.machine.idleOwn, this.machine.idlePeers].map(([first]) => first?.idleSince ?? Infinity);
        const due = Math.min(...since) + sessionMaxLife;
        this.#cancelIdle = null;
        if (due === Infinity || this.ending !== null) return;
        this.#cancelIdle = this.clock.after(due - this.now(), () => {
            for (const idle of [this.machine.idleOwn, this.machine.idlePeers]) {
                for (const dialogue of idle) {
                    if (dialogue.idleSince + sessionMaxLife > this.now()) break;
                    this.counters.expired += 1;
                    this.end(dialogue, endings.expired(sessionMaxLife));
                }
            }
            this.#watchIdle();
        });
    }

    /** Ask a peer that has been silent since that moment for a sign of life; one that gives none is gone, whatever the
     * socket says. */
    #keepAlive(since = this.now()) {
        const { keepaliveInterval, keepalivePatience } = this.options;
        this.#cancelKeepalive = this.clock.after(since + keepaliveInterval - this.now(), () => {
            if (this.#heard > since) {
                this.#keepAlive(this.#heard);
                return;
            }
            if (this.machine.peer !== "exact" || !this.links.stands) {
                this.#keepAlive();
                return;
            }
            this.perform(this.machine.askForLife(keepalivePatience));
            this.#cancelKeepalive = this.clock.after(keepalivePatience, () => {
                const silent = keepaliveInterval + keepalivePatience;
                if (this.#heard <= since) this.links.drop(new Error(`no sign of life for ${silent} s (keepalive)`));
                if (this.ending === null) this.#keepAlive(this.#heard);
            });
        });
    }

    // -- the link --

    #stands(known) {
        if (known !== undefined) {
            this.perform(this.machine.reopened(known));
            return;
        }
        if (this.options.resumeWithin) this.#sayHello(this.now() + WELCOME_PATIENCE);
        this.#keepAlive();
        this.#opened?.resolve();
    }

    /** Say hello on the first link, until it is answered or has been said for long enough. */
    #sayHello(until) {
        const { handshake } = this.machine;
        if (handshake.hostLife !== null || this.now() >= until || this.ending !== null) return;
        this.say(this.#encode(handshake.hello()));
        this.#cancelHello = this.clock.after(HELLO_INTERVAL, () => this.#sayHello(until));
    }

    #over(error, why) {
        if (this.ending !== null) return;
        if (error === undefined) this.close(endings.portClosed("the peer closed the channel"));
        else this.close(endings.portClosed(`the channel broke: ${why ?? error.message}`, error));
    }

    #state(state) {
        try {
            this.options.onState?.(state);
        } catch (error) {
            this.crashed("onState", error);
        }
    }

    // -- the end --

    /** End a session; the first ending counts. */
    end(dialogue, ending) {
        if (dialogue.ending === null) this.perform(this.machine.end(dialogue, ending, this.now()));
    }

    leave(dialogue, code, text) {
        this.perform(this.machine.leave(dialogue, code, text));
    }

    /** The port is over: every waiter gets its error now; the first ending counts. A promise: the socket is closed. */
    close(ending) {
        if (this.ending === null) {
            this.ending = ending;
            this.perform([...this.machine.close(ending, this.now()), { kind: "closed" }]);
        }
        return this.#closed;
    }

    /** What the end of the port led to is done: nothing more is sent, and no timer is left. */
    shut() {
        this.#cancelIdle?.();
        this.#cancelKeepalive();
        this.#cancelHello();
        this.outbox.close();
        this.links.close(this.options.grace).then(this.#isClosed);
        this.wakeAllForNumbers();
        for (const live of this.atWork) live.abortSignal(this.closedError());
        this.#opened?.reject(this.closedError());
        for (const call of this.#whenClosed.splice(0)) call();
    }

    /** Take no new sessions. A promise: there are none any more. */
    drain() {
        this.perform(this.machine.drain());
        this.wakeAllForNumbers();
        return new Promise((resolve) => {
            this.#whenDrained.push(resolve);
            this.noteDrained();
        });
    }

    noteDrained() {
        if (this.machine.isDrained) for (const resolve of this.#whenDrained.splice(0)) resolve();
    }

    handlerDone() {
        this.machine.handlerDone();
        this.noteDrained();
    }

    whenClosed() {
        if (this.ending !== null) return Promise.resolve();
        return new Promise((resolve) => this.#whenClosed.push(resolve));
    }

    closedError() {
        const { why, cause } = this.ending;
        return new PortClosedError(`the port is closed: ${why}`, { cause, outcome: "not_sent" });
    }

    checkOpen() {
        if (this.ending !== null) throw this.closedError();
    }

    // -- what is told --

    /** What is known that may explain why an answer does not come. */
    hints() {
        const dropped = Object.keys(ADVICE).filter((reason) => this.counters[reason]);
        const reasons = dropped.map((reason) => `${this.counters[reason]} ${reason}`).join(", ");
        const { machine, options } = this;
        const mayClash = machine.peer === "unknown" && !machine.dialect.asksExactly && options.takesSessions;
        return (
            (reasons && `; dropped messages of this peer so far: ${reasons} (see port.statistics())`) +
            (mayClash
                ? "; if the peer takes sessions as well, both may count from the same number: " +
                  "give the two disjoint sessionIds, or use the exact wire"
                : "")
        );
    }

    statistics() {
        const { own, peers, pool, counters } = this.machine;
        const gauges = { open: own.size + peers.size, incoming: peers.size, resting: pool.resting };
        const bytes = { queuedBytes: this.outbox.queuedBytes, heldBytes: this.heldBytes };
        return Object.freeze({ ...gauges, ...bytes, ...counters });
    }
}

/** What is done about each event of the machine's. */
const DEEDS = {
    answered: (_, { turn, payload }) => turn.answer(payload),
    refused: (_, { turn, ...told }) => turn.refused(told),
    postponed: (_, { turn, until }) => turn.postponed(until),
    heard: (_, { turn }) => turn.heard(),
    overrun: (_, { turn }) => turn.overrun(),
    givenUp: (_, { turn, ending }) => turn.givenUp(ending),
    askAgain: (_, { turn }) => turn.askAgain(),
    opened: (engine, { dialogue }) => engine.sessionOpened(dialogue),
    received: (_, event) => event.dialogue.owner?.received(event),
    ended: (engine, event) => {
        event.dialogue.owner?.ended(event);
        engine.noteDrained();
    },
    say: (engine, { frame, must }) => engine.say(frame, must),
    repeat: (engine, event) => engine.repeat(event),
    numberFree: (engine) => engine.numberFree(),
    peerClosing: (engine) => engine.wakeAllForNumbers(),
    plain: (engine, event) => engine.plain(event),
    dropped: (engine, event) => engine.dropped(event),
    // Two of this file's own, which come behind what is under way:
    nextTurn: (_, { live }) => live.nextTurn(),
    closed: (engine) => engine.shut(),
};

/** A random whole number from 0 up to a power of two, at most 2**53. */
function below(limit) {
    const [high, low] = crypto.getRandomValues(new Uint32Array(2));
    return ((high % 2 ** 21) * 2 ** 32 + low) % limit; // of 53 bits, as many as a number keeps
}

// -- one turn ---------------------------------------------------------------------------------------------------------

/** One `send` and its reply: the attempts, the waits, and the end. */
class Turn extends AskedTurn {
    tries = 0; // attempts that the patience counts; one on a new link is none
    ticket = null;
    isOver = false;
    due = Infinity;
    #cancelTimer = () => {};
    #safeBy = null;
    #resolve;
    #reject;

    constructor(live, payload, patience, signal) {
        super(live.dialogue);
        Object.assign(this, { live, engine: live.engine, payload, patience, signal });
    }

    /** The reply, as a promise. */
    run() {
        return new Promise((resolve, reject) => {
            this.#resolve = resolve;
            this.#reject = reject;
            this.begin();
        });
    }

    /** Ask as soon as the turns before this one are over. */
    begin() {
        if (this.signal?.aborted) {
            this.abort();
            return;
        }
        this.signal?.addEventListener("abort", this);
        this.live.lineUp(this);
    }

    /** The signal's event. */
    handleEvent() {
        this.abort();
    }

    abort() {
        this.engine.counters.cancelled += 1;
        this.fail(this.signal.reason, "cancelled");
    }

    /** This turn has its place in the session. */
    start() {
        this.started = this.engine.now();
        this.dialogue.turn = this;
        this.engine.machine.isBusy(this.dialogue);
        if (this.engine.machine.isUnsafe(this.dialogue)) this.makeSafe();
        else this.#ask();
    }

    /** See to it that no reply of the past can answer this turn: a fresh number, or the old one when it is safe. */
    makeSafe() {
        const { engine, dialogue, patience } = this;
        engine.needy.delete(this);
        if (engine.options.onUnanswered === "keep" && !dialogue.unsafeUntil) {
            this.#ask();
            return;
        }
        if (dialogue.incoming) {
            const why =
                "a turn was not answered, and its late reply could answer this one; the number is the peer's: " +
                'let the peer open a new session, or choose onUnanswered: "keep"';
            this.fail(this.error(InvalidError, why), "aborted");
            return;
        }
        const now = engine.now();
        this.#safeBy ??= this.started + patience.timeout;
        const safe = engine.machine.renew(dialogue, now);
        if (safe === null) {
            this.started = now;
            this.#ask();
        } else if (now >= this.#safeBy) {
            this.timeOut(
                "not sent: all session numbers are in use or rest after unanswered turns; " +
                    "widen sessionIds, or shorten sessionIdRest",
            );
        } else {
            engine.needy.add(this);
            this.wait(Math.min(safe, this.#safeBy), () => this.makeSafe());
        }
    }

    get total() {
        return this.patience.total;
    }

    #ask() {
        this.engine.machine.begin(this, this.total, this.arriving);
        this.attempt();
    }

    /** Make one attempt, unless the last one's frame is still in the queue, and wait for what comes of it. */
    attempt() {
        const now = this.engine.now();
        this.tries += 1;
        try {
            if (this.ticket === null || this.ticket.isWritten) this.#transmit(now);
            else this.attempts += 1;
        } catch (error) {
            this.fail(error, "aborted");
            return;
        }
        if (!this.isOver) this.awaitReply(now);
    }

    awaitReply(now) {
        this.wait(Math.min(now + this.patience.within(this.tries), this.deadline), () => this.silence());
    }

    #transmit(now) {
        const left = this.attempts ? Math.round((this.deadline - now) * 1000) / 1000 : this.total;
        const frame = this.engine.machine.ask(this, this.payload, this.engine.options.deadlines ? left : Infinity);
        this.attempts += 1;
        this.ticket = this.engine.outbox.put(frame, this);
    }

    /** Look again at `due`. A reply in hand beats its deadline: what came while nobody looked is taken first. */
    wait(due, look) {
        const { clock } = this.engine;
        this.due = due;
        this.#cancelTimer();
        this.#cancelTimer = clock.after(due - clock.now(), () => {
            this.#cancelTimer = clock.after(0, () => {
                if (clock.now() < this.due) this.wait(this.due, look);
                else look();
            });
        });
    }

    stopWaiting() {
        this.#cancelTimer();
        this.due = Infinity;
    }

    silence() {
        if (this.tries > this.patience.retryCount || this.engine.now() >= this.deadline) {
            this.timeOut(`no reply: ${this.advice()}`);
        } else {
            this.attempt();
        }
    }

    timeOut(why) {
        this.engine.counters.timedOut += 1;
        this.fail(this.error(TimeoutError, why), "timeout");
    }

    advice() {
        if (!this.sent) return "not sent, the channel took nothing in that time";
        if (this.sent < this.attempts) return `sent ${this.sent} times, then the channel took nothing more`;
        return `the peer is slow or gone; a longer timeout or more retries may help${this.engine.hints()}`;
    }

    error(kind, why, more = {}) {
        const known = { attempts: this.attempts, waited: this.engine.now() - this.started };
        return this.live.error(kind, why, { ...known, outcome: this.sent ? "sent" : "not_sent", ...more });
    }

    // -- what the machine says --

    answer(payload) {
        if (this.leave("ended")) this.#resolve(payload);
    }

    /** There will be no reply. */
    fail(error, code) {
        if (this.leave(code)) this.#reject(error);
    }

    refused(told) {
        this.fail(this.remoteError(told), "aborted");
    }

    remoteError({ code, text, outcome }) {
        const why = `the peer answered with the error ${JSON.stringify(code)}${text ? `: ${JSON.stringify(text)}` : ""}`;
        return this.error(RemoteError, why, { code, text, outcome });
    }

    /** The peer is at work on it: the next attempt need not come before that moment. */
    postponed(until) {
        this.due = Math.max(this.due, until);
    }

    givenUp({ error, why, cause, code }) {
        this.fail(this.error(error, why, { cause }), code || "cancelled");
    }

    /** The link is back, and the message may have been lost with the last one. */
    askAgain() {
        try {
            if (this.ticket === null || this.ticket.isWritten) this.#transmit(this.engine.now());
        } catch (error) {
            this.fail(error, "aborted"); // the payload is the caller's, who may have spoilt it by now
        }
    }

    /** The turn leaves its session, or the line before it. False if it has. */
    leave(code) {
        if (this.isOver) return false;
        this.isOver = true;
        this.stopWaiting();
        this.signal?.removeEventListener("abort", this);
        this.engine.needy.delete(this);
        if (this.dialogue.turn !== this) {
            this.live.leaveLine(this);
            return true;
        }
        const { engine, dialogue, live } = this;
        if (this.ticket !== null) engine.outbox.withdraw(this.ticket);
        engine.perform(engine.machine.turnOver(this, code, engine.now()));
        if (!dialogue.once && dialogue.ending === null && (!dialogue.incoming || live.isWaitingForPeer)) {
            engine.rests(dialogue);
        }
        engine.perform([{ kind: "nextTurn", live }]); // behind what its end leads to
        return true;
    }
}

/** A turn with many replies. Its outcome is its end, which is told when the replies before it are taken. */
class StreamTurn extends Turn {
    #total;
    #outcome = null; // { error, code }; without an error it is the end
    #receiver = null; // { resolve, reject }
    #limit = null; // when the time of an attempt is over; null: nobody waits for a reply
    #granted = null;

    constructor(live, payload, { patience, total, count, credit, signal }) {
        super(live, payload, patience, signal);
        this.#total = total;
        this.arriving = new Arriving(credit, count);
    }

    get total() {
        return this.#total;
    }

    /** The next reply, as an iterator gives it. */
    next() {
        return new Promise((resolve, reject) => {
            this.#receiver = { resolve, reject };
            this.#look();
        });
    }

    /** Hand over what there is to whoever waits. */
    #look() {
        const { arriving } = this;
        const receiver = this.#receiver;
        if (receiver === null || (this.dialogue.turn !== this && !this.isOver && this.#outcome === null)) return;
        if (!arriving.isEnough && arriving.ready.length) {
            const value = arriving.take();
            const credit = this.state === "idle" ? null : arriving.grant();
            if (credit !== null) this.#grant(credit);
            this.stopWaiting();
            this.#limit = null;
            if (this.#outcome !== null && this.#outcome.error === undefined && !arriving.ready.length) this.leave("ended");
            this.#receiver = null;
            receiver.resolve({ value, done: false });
        } else if (arriving.isEnough || this.#outcome !== null) {
            const { error, code } = arriving.isEnough ? { code: "ended" } : this.#outcome;
            this.leave(code);
            this.#receiver = null;
            if (error === undefined) receiver.resolve({ value: undefined, done: true });
            else receiver.reject(error);
        } else if (!this.isOver) {
            this.awaitReply(this.engine.now());
        }
    }

    /** The quiet time begins when the application waits for a reply, and each reply begins all attempts anew. */
    awaitReply(now) {
        if (this.#limit === null) {
            this.tries = 1;
            this.#limit = now + this.patience.within(1);
        }
        this.wait(Math.min(this.#limit, this.deadline), () => this.silence());
    }

    silence() {
        const now = this.engine.now();
        if (now >= this.deadline) {
            this.timeOut(`the stream was not over in ${this.#total} s`);
        } else if (now < this.#limit) {
            this.awaitReply(now);
        } else if (this.#receiver === null) {
            this.#limit = null; // nobody waits
        } else if (this.tries > this.patience.retryCount) {
            const { consumed } = this.arriving;
            this.timeOut(`${consumed ? `no reply after the first ${consumed}` : "no reply"}: ${this.advice()}`);
        } else {
            this.#limit = now + this.patience.within(this.tries + 1);
            this.attempt();
        }
    }

    #grant(credit) {
        const frame = this.engine.machine.grant(this, credit);
        if (frame === null || this.engine.outbox.isClosed) return;
        if (this.#granted !== null) this.engine.outbox.withdraw(this.#granted);
        this.#granted = this.engine.outbox.put(frame); // never dropped: without it the peer may wait for ever
    }

    heard() {
        const { last } = this.arriving;
        if (last !== null && last.error === undefined) this.#outcome ??= { code: "ended" };
        this.#look();
    }

    overrun() {
        const why = `the peer sent more than the ${this.arriving.credit} replies that it had credit for`;
        this.fail(this.error(OverrunError, why), "overrun");
    }

    postponed(until) {
        if (this.#limit !== null) this.#limit = Math.max(this.#limit, until);
        super.postponed(until);
    }

    abort() {
        this.arriving.ready.length = 0;
        super.abort();
        this.leave("cancelled");
    }

    fail(error, code) {
        this.#outcome ??= { error, code };
        if (this.ticket !== null) this.engine.outbox.withdraw(this.ticket);
        this.stopWaiting();
        this.#look();
    }

    /** The application wants no more. */
    close() {
        this.arriving.ready.length = 0;
        this.leave("ended");
        this.#outcome = { code: "ended" };
        this.#look();
    }
}

/** The replies to one message, in order and each once: an async iterator. Nothing is sent before the first `next()`. */
class Replies {
    #open; // gives the session that the turn is in, or a promise of it
    #isOwn;
    #payload;
    #plan;
    #turn = null;
    #live = null;
    #isAwaited = false;
    #isOver = false;

    constructor(open, isOwn, payload, plan) {
        this.#open = open;
        this.#isOwn = isOwn;
        this.#payload = payload;
        this.#plan = plan;
    }

    [Symbol.asyncIterator]() {
        return this;
    }

    async next() {
        if (this.#isOver) return { value: undefined, done: true };
        if (this.#isAwaited) throw new InvalidError("the reply before this one is still waited for");
        this.#isAwaited = true;
        try {
            if (this.#turn === null) {
                const live = this.#open();
                this.#live = live instanceof LiveSession ? live : await live;
                if (this.#isOver) {
                    this.#live.end(); // it was left while it waited for a number
                    return { value: undefined, done: true };
                }
                this.#turn = new StreamTurn(this.#live, this.#payload, this.#plan);
                const first = this.#turn.next();
                this.#turn.begin();
                return await this.#given(first);
            }
            return await this.#given(this.#turn.next());
        } catch (error) {
            this.#end();
            throw error;
        } finally {
            this.#isAwaited = false;
        }
    }

    async #given(next) {
        const result = await next;
        if (result.done) this.#end();
        return result;
    }

    /** Leave before the end: the peer is told, and its handler cancelled. */
    async return(value) {
        this.#turn?.close();
        this.#end();
        return { value, done: true };
    }

    #end() {
        this.#isOver = true;
        if (this.#isOwn) this.#live?.end();
    }
}

const STREAM = [...PATIENCE, "total", "count", "credit", "signal"];

/** The options of a stream, checked. */
function planOf(patience, options) {
    refuseUnknown("stream()", options, STREAM);
    const { total = Infinity, count = Infinity, credit = DEFAULT_WINDOW, signal } = options;
    checkSeconds("total", total);
    if (count !== Infinity) checkCount("count", count);
    checkCount("credit", credit);
    if (credit > LARGEST / 2) throw new RangeError(`credit must be at most 2**52 - 1, not ${credit}`);
    return { patience: patience.with(options), total, count, credit, signal };
}

const NEEDS_EXACT = 'many replies to one turn need the exact wire, which numbers them: connect(url, {dialect: "exact"})';

// -- one session ------------------------------------------------------------------------------------------------------

/** This side of one dialogue: who waits in it, its inbox, its handler. The machine knows it as the dialogue's owner. */
class LiveSession {
    #inbox = []; // { item, size }
    #receivers = [];
    #line = []; // turns that wait behind the one that is under way
    #parts = []; // answers of a stream that wait for credit or for room
    #isWaitingForCredit = false;
    #isWaitingForRoom = false;
    #hasRoom = false; // it was told so
    #controller = null;
    #cancelDeadline = null;

    constructor(engine, dialogue, patience) {
        Object.assign(this, { engine, dialogue, patience, machine: engine.machine });
        this.face = new Session(this);
        dialogue.owner = this;
    }

    // -- its handler --

    async handle() {
        const { engine, dialogue } = this;
        const { sid } = dialogue;
        try {
            const { onSession } = engine.options;
            const result = onSession(this.face);
            if (typeof result?.then !== "function") {
                throw new TypeError(`onSession must be an async function: it returned ${inWords(result)}`);
            }
            const returned = await result;
            await this.finishStream();
            if (returned !== undefined) {
                const text = `onSession returned something in session ${sid}, which nobody gets: await session.post(...)`;
                engine.said.once("warn", "returned", text);
            }
        } catch (error) {
            this.failed(error, "onSession");
        } finally {
            this.#drop();
            engine.end(dialogue, endings.ENDED);
            engine.handlerDone();
        }
    }

    /** A handler threw: its asker is told, where the wire can; what is no fault of the handler's is not logged. */
    failed(error, what) {
        const { engine, dialogue } = this;
        if (error instanceof RefusedError) {
            engine.leave(dialogue, refusalCode(error.code), error.why);
            return;
        }
        engine.leave(dialogue, CRASHED, engine.options.debug ? String(error) : "");
        const isOver = engine.ending !== null || dialogue.ending !== null;
        const isItsOwn = error instanceof SessionError && (error.sid === dialogue.sid || engine.ending !== null);
        const { aborted, reason } = this.#controller?.signal ?? {};
        const isAborted = aborted && (error === reason || error?.name === "AbortError");
        if (!(isOver && (isItsOwn || isAborted))) engine.crashed(what, error, ` in session ${dialogue.sid}`);
    }

    /** Aborted when nobody wants the work of its handler any more. */
    get signal() {
        if (this.#controller === null) {
            this.#controller = new AbortController();
            if (this.isOver) this.abortSignal(this.afterError());
        }
        return this.#controller.signal;
    }

    get isOver() {
        return this.dialogue.ending !== null;
    }

    abortSignal(reason) {
        this.#controller?.abort(reason);
    }

    /** The time that the asker gives begins: when it is over, the handler's work is wanted no more. */
    watchDeadline() {
        const { clock } = this.engine;
        const { exact } = this.dialogue;
        if (exact.due === Infinity || this.#cancelDeadline !== null) return;
        this.#cancelDeadline = clock.after(exact.due - clock.now(), () => {
            this.#cancelDeadline = null;
            if (this.dialogue.ending !== null || exact.due === Infinity) return;
            if (exact.due > clock.now()) {
                this.watchDeadline();
                return;
            }
            this.abortSignal(this.error(CancelError, "its asker waits no more"));
            this.machine.stop(this.dialogue);
            this.engine.end(this.dialogue, endings.ENDED);
        });
    }

    // -- what the machine says --

    received({ payload, question }) {
        const { engine, dialogue } = this;
        const { inboxLimit, maxHeldBytes } = engine.options;
        if (dialogue.incoming) {
            if (!this.#isWaitingForCredit) this.machine.isBusy(dialogue); // one that waits for credit is idle
            if (question) this.watchDeadline();
        } else if (dialogue.turn === null) {
            engine.rests(dialogue);
        }
        const item = { payload, question };
        if (this.#receivers.length) {
            this.#receivers.shift().resolve({ value: this.#consumed(item), done: false });
            return;
        }
        if (this.#inbox.length >= inboxLimit || engine.heldBytes + engine.weight > maxHeldBytes) {
            const isMany = this.#inbox.length >= inboxLimit;
            engine.counters.overrun += 1;
            engine.dropped({ reason: "overrun", sid: dialogue.sid });
            this.#drop();
            const why = isMany
                ? `the peer sent more than the ${inboxLimit} messages that the inbox holds; receive them, or raise inboxLimit`
                : `messages that nobody has received hold more than ${maxHeldBytes} bytes; receive them, or raise maxHeldBytes`;
            engine.end(dialogue, endings.overrun(why));
            return;
        }
        engine.heldBytes += engine.weight;
        this.#inbox.push({ item, size: engine.weight });
    }

    /** The application has a message, and the question that it asks. */
    #consumed({ payload, question }) {
        if (question) this.machine.hold(this.dialogue, question);
        return payload;
    }

    /** Let go of what nobody has received. */
    #drop() {
        for (const { size } of this.#inbox) this.engine.heldBytes -= size;
        this.#inbox = [];
    }

    ended({ ending }) {
        const { dialogue, engine } = this;
        this.#cancelDeadline?.();
        for (const turn of this.#line.splice(0)) {
            engine.counters[ending.counter] += 1;
            turn.givenUp(ending);
        }
        if (this.#controller !== null) {
            this.abortSignal(this.error(ending.error, ending.why, { cause: ending.cause })); // an error costs 5 us
        }
        for (const { resolve, reject } of this.#receivers.splice(0)) {
            if (ending.clean) resolve({ value: undefined, done: true });
            else reject(this.afterError());
        }
        engine.outbox.turnBack(this);
        this.#pump();
        if (dialogue.incoming) return; // else what came before can still be received, and is its owner's
        for (const kept of this.#inbox) {
            engine.heldBytes -= kept.size;
            kept.size = 0;
        }
    }

    // -- turns --

    lineUp(turn) {
        if (this.dialogue.ending !== null) {
            turn.fail(this.afterError(), "aborted");
        } else if (this.dialogue.turn === null && !this.#line.length) {
            turn.start();
        } else {
            turn.started = this.engine.now();
            this.#line.push(turn);
        }
    }

    leaveLine(turn) {
        this.#line = this.#line.filter((one) => one !== turn);
    }

    nextTurn() {
        if (this.dialogue.turn === null && this.dialogue.ending === null) this.#line.shift()?.start();
    }

    send(payload, patience, signal) {
        return new Turn(this, payload, patience, signal).run();
    }

    /** Give every send that waits its own error. The session lives on. */
    settle(ending) {
        const { turn } = this.dialogue;
        const line = this.#line.splice(0);
        if (turn !== null) this.engine.perform(this.machine.giveUp(turn, ending));
        for (const waiting of line) {
            this.engine.counters[ending.counter] += 1;
            waiting.givenUp(ending);
        }
    }

    get isWaitingForPeer() {
        return this.#receivers.length > 0 || this.#isWaitingForCredit;
    }

    // -- messages that are no turns --

    /** The next message, as an iterator gives it. */
    async next({ timeout = Infinity, signal } = {}) {
        const { engine, dialogue } = this;
        signal?.throwIfAborted();
        const isHere = this.#inbox.length > 0 || dialogue.ending !== null;
        if (timeout === 0 && !isHere) throw this.error(TimeoutError, "no message is there"); // it ends no stream
        if (dialogue.exact?.stream) await this.finishStream();
        if (this.#inbox.length) {
            const { item, size } = this.#inbox.shift();
            engine.heldBytes -= size;
            return { value: this.#consumed(item), done: false };
        }
        if (dialogue.ending !== null) {
            if (dialogue.ending.clean) return { value: undefined, done: true };
            throw this.afterError();
        }
        if (dialogue.incoming && dialogue.turn === null) engine.rests(dialogue);
        return new Promise((resolve, reject) => {
            const leave = (how) => (value) => {
                cancel();
                signal?.removeEventListener("abort", abort);
                this.#receivers = this.#receivers.filter((one) => one !== receiver);
                how(value);
            };
            const receiver = { resolve: leave(resolve), reject: leave(reject) };
            const abort = () => receiver.reject(signal.reason);
            const timeOut = () => receiver.reject(this.error(TimeoutError, `no message came in ${timeout} s`));
            let cancel = engine.clock.after(timeout, () => {
                cancel = engine.clock.after(0, timeOut); // what came while nobody looked is taken first
            });
            signal?.addEventListener("abort", abort);
            this.#receivers.push(receiver);
        });
    }

    /** Send a message that wants no reply; in a stream of the peer's it is one reply, and waits for credit. */
    async post(payload) {
        const { engine, dialogue } = this;
        if (dialogue.ending !== null) throw this.afterError();
        if (dialogue.exact?.stream) {
            await this.#part(payload, dialogue.exact.stream);
        } else {
            await this.postNow(payload, () => {
                if (dialogue.ending !== null) throw this.afterError();
            });
        }
        if (!dialogue.incoming && dialogue.turn === null && dialogue.ending === null) engine.rests(dialogue);
    }

    /** Send it, outside of any stream; a promise where there is no room for it. */
    async postNow(payload, check) {
        const { engine, dialogue } = this;
        const posted = this.machine.post(dialogue, payload);
        try {
            const waiting = engine.post(posted.frame, check, this);
            if (waiting !== undefined) await waiting;
        } catch (error) {
            this.machine.notPosted(dialogue, posted);
            throw error;
        }
        if (posted.answers) engine.perform(this.machine.answerSent(dialogue, engine.now()));
    }

    /** End the answer to the turn that was received, with a payload if there is one. */
    async finish(payload) {
        const stream = this.dialogue.exact?.stream;
        if (stream) await this.#finish(stream, payload);
        else if (payload !== undefined) await this.post(payload);
    }

    /** The handler turns to something else: its stream, if it has one, is finished. */
    async finishStream() {
        const { exact } = this.dialogue;
        const stream = exact?.stream;
        if (!stream) return;
        try {
            if (this.dialogue.ending === null && !stream.isOver) await this.#finish(stream);
        } catch (error) {
            if (this.dialogue.ending === null && !stream.isOver) throw error; // else it ended while this waited
        }
        if (exact.stream === stream) exact.stream = null;
    }

    async #finish(stream, payload) {
        if (payload !== undefined && Object.keys(payload).length) {
            await this.#part(payload, stream, { isLast: true });
            return;
        }
        if (payload !== undefined) await this.#part(payload, stream); // alone it would be taken for an end mark
        await this.#part({}, stream, { isLast: true, isMark: true });
    }

    /** One of many answers, as soon as those before it are sent and there is credit and room for it. */
    #part(payload, stream, { isLast = false, isMark = false } = {}) {
        return new Promise((resolve, reject) => {
            this.#parts.push({ payload, stream, isLast, isMark, resolve, reject });
            if (this.#parts.length === 1) this.#pump();
        });
    }

    #pump() {
        const { engine, dialogue } = this;
        while (this.#parts.length) {
            const { payload, stream, isLast, isMark, resolve, reject } = this.#parts[0];
            const refusal = this.#refusalOf(stream);
            const lacksCredit = !isMark && stream.spent >= stream.credit;
            if (refusal === null && (lacksCredit || !(engine.outbox.hasRoom || this.#hasRoom))) {
                if (lacksCredit) this.#awaitCredit(stream);
                else this.#awaitRoom();
                return;
            }
            if (this.#isWaitingForCredit) {
                this.#isWaitingForCredit = false;
                stream.waiting = 0;
                if (dialogue.ending === null) this.machine.isBusy(dialogue);
            }
            this.#hasRoom = false;
            this.#parts.shift();
            try {
                if (refusal !== null) throw refusal;
                const frame = this.machine.part(dialogue, payload, engine.now(), isLast);
                if (!isMark) stream.spent += 1;
                engine.outbox.put(frame);
                if (isLast) engine.perform(this.machine.answerSent(dialogue, engine.now()));
                resolve();
            } catch (error) {
                reject(error);
            }
        }
    }

    #awaitRoom() {
        if (this.#isWaitingForRoom) return;
        this.#isWaitingForRoom = true;
        const run = () => {
            this.#isWaitingForRoom = false;
            this.#hasRoom = true;
            this.#pump();
        };
        this.engine.outbox.whenRoom(run, this);
    }

    /** Wait for a word of the asker's, no longer than a session may be idle: its last word may be lost. */
    #awaitCredit(stream) {
        if (this.#isWaitingForCredit) return;
        this.#isWaitingForCredit = true;
        stream.waiting = 1;
        // Not at once: it is called in the middle of a step of the machine's.
        stream.wake = () => queueMicrotask(() => this.#pump());
        this.engine.rests(this.dialogue);
    }

    #refusalOf(stream) {
        if (this.dialogue.ending !== null) return this.afterError();
        if (!stream.isOver) return null;
        const why = stream.isComplete ? "the turn is over: finish() was called" : "the peer gave the turn up";
        return this.error(CancelError, why);
    }

    // -- the end --

    end() {
        this.engine.end(this.dialogue, endings.ENDED);
    }

    error(kind, why, known) {
        return new kind(why, { sid: this.dialogue.sid, ...known });
    }

    /** The error of a call after the end. */
    afterError() {
        const { after, why, cause } = this.dialogue.ending;
        return this.error(after, `the session is over: ${why}`, { cause, outcome: "not_sent" });
    }
}

/** A dialogue of the peer's whose questions onRequest answers one by one. */
class Requests extends LiveSession {
    #atWork = 0;
    #isCounted = true;

    constructor(engine, dialogue) {
        super(engine, dialogue, engine.patience);
    }

    received(event) {
        this.#answer(event);
    }

    get isOver() {
        return this.dialogue.exact === null ? this.engine.ending !== null : super.isOver;
    }

    async #answer({ payload, question }) {
        const { engine, dialogue, machine } = this;
        const { options, weight } = engine;
        this.#atWork += 1;
        const isExact = dialogue.exact !== null;
        if (!isExact) {
            engine.end(dialogue, endings.ENDED); // on the classic wire any message may be the last of its number
        } else {
            machine.isBusy(dialogue);
            if (question) {
                machine.hold(dialogue, question);
                this.watchDeadline();
            }
        }
        if (engine.heldBytes + weight > options.maxHeldBytes) {
            engine.counters.overrun += 1;
            engine.dropped({ reason: "overrun", sid: dialogue.sid });
            engine.leave(dialogue, "overrun");
            this.#rest(false);
            return;
        }
        engine.heldBytes += weight;
        engine.atWork.add(this);
        let goesOn = true;
        try {
            let reply = options.onRequest(payload, new RequestContext(this));
            if (typeof reply?.then === "function") reply = await reply;
            if (typeof reply?.[Symbol.asyncIterator] === "function") goesOn = await this.#give(question, reply);
            else goesOn = await this.#reply(question, reply);
        } catch (error) {
            this.failed(error, "onRequest");
            goesOn = false;
        } finally {
            engine.heldBytes -= weight;
            this.#rest(goesOn);
        }
    }

    /** Whether somebody waits for the answer: it is no post, and was not given up. */
    #isWanted(question) {
        const { exact, ending } = this.dialogue;
        if (exact === null) return this.engine.ending === null;
        return ending === null && question !== 0 && exact.holding === question;
    }

    /** Send the one answer. False where there is none. */
    async #reply(question, reply) {
        if (!this.#isWanted(question)) return true;
        const { engine, dialogue } = this;
        if (reply === undefined || reply === null) {
            if (dialogue.exact !== null) {
                const text = "onRequest returned nothing, so its asker gets an error: return a reply";
                engine.said.once("warn", "no answer", text);
                engine.leave(dialogue, UNANSWERED);
            }
            return false;
        }
        if (dialogue.exact?.stream) await this.finish(reply);
        else await this.postNow(reply, () => engine.checkOpen());
        return true;
    }

    /** Send the many answers of an async generator; where one was asked for, the first. False where there is none. */
    async #give(question, replies) {
        const isStream = Boolean(this.dialogue.exact?.stream);
        for await (const reply of replies) {
            if (!isStream) return this.#reply(question, reply);
            if (!this.#isWanted(question)) return true;
            await this.post(reply);
        }
        if (!isStream) return this.#reply(question, undefined);
        await this.finishStream();
        return true;
    }

    ended(event) {
        // What the classic wire's dialogue was opened for goes on when that is over.
        if (this.dialogue.exact !== null || this.engine.ending !== null) super.ended(event);
        this.#count();
    }

    /** A question is done with; the peer may ask another one in this dialogue, where it goes on. */
    #rest(goesOn) {
        this.#atWork -= 1;
        if (!this.#atWork) this.engine.atWork.delete(this);
        if (!goesOn) this.end();
        else if (this.dialogue.ending === null && !this.#atWork) this.engine.rests(this.dialogue);
        this.#count();
    }

    #count() {
        if (this.#isCounted && !this.#atWork && this.dialogue.ending !== null) {
            this.#isCounted = false;
            this.engine.handlerDone();
        }
    }
}

/** What onRequest gets beside the message. */
class RequestContext {
    #live;

    constructor(live) {
        this.#live = live;
    }

    /** Aborted when the asker gives the turn up, its time is over, or the port is closed. */
    get signal() {
        return this.#live.signal;
    }
}

/** One dialogue with the peer. Turns are one at a time: a second `send` waits for the first. */
export class Session {
    #live;

    /** Sessions are made by `port.session()`, or handed to onSession. */
    constructor(live) {
        if (!(live instanceof LiveSession)) throw new TypeError("a Session is made by port.session()");
        this.#live = live;
    }

    /** Its number. After a turn whose reply may still come the next `send` takes a fresh one. */
    get sid() {
        return this.#live.dialogue.sid;
    }

    /** Whether the peer opened it. */
    get incoming() {
        return this.#live.dialogue.incoming;
    }

    /** Whether it is over. */
    get closed() {
        return this.#live.dialogue.ending !== null;
    }

    /** Aborted when it is over: nobody wants the work of its handler any more. */
    get signal() {
        return this.#live.signal;
    }

    /** Send a payload and return the peer's reply to it. */
    async send(payload, options = {}) {
        refuseUnknown("send()", options, SEND);
        return this.#live.send(payload, this.#live.patience.with(options), options.signal);
    }

    /** Send a payload, and receive many replies to it: an async iterator. */
    stream(payload, options = {}) {
        const live = this.#live;
        if (!live.machine.isExact(live.dialogue)) throw live.error(InvalidError, NEEDS_EXACT);
        return new Replies(() => live, false, payload, planOf(live.patience, options));
    }

    /** Send a payload that wants no reply. Resolves when it is accepted, in order. */
    post(payload) {
        return this.#live.post(payload);
    }

    /** End the answer to the turn that was received, with a payload if there is one. */
    finish(payload) {
        return this.#live.finish(payload);
    }

    /** The next message of the peer's that is no reply to a `send`. */
    async receive(options = {}) {
        refuseUnknown("receive()", options, ["timeout", "signal"]);
        if (options.timeout != null) checkSeconds("timeout", options.timeout);
        const { value, done } = await this.#live.next({ ...options, timeout: options.timeout ?? Infinity });
        if (done) throw this.#live.afterError();
        return value;
    }

    /** Iterate over what the peer says; stops when the session ends cleanly. Leaving the loop leaves the session open. */
    [Symbol.asyncIterator]() {
        return { next: () => this.#live.next() };
    }

    /** Give up the sends that wait: each gets a CancelError. The session lives on. */
    cancel() {
        this.#live.settle(endings.CANCELLED);
    }

    /** Cut off the sends that wait: each gets an AbortError, caused by `error`. The session lives on. */
    abort(error) {
        this.#live.settle(endings.aborted(error));
    }

    /** Let the sends that wait time out now, their remaining attempts included. */
    timeout() {
        this.#live.settle(endings.TIMED_OUT);
    }

    /** End the session. Sends that wait get a CancelError; an exact peer is told. Again, it does nothing. */
    end() {
        this.#live.end();
    }
}

// -- the port ---------------------------------------------------------------------------------------------------------

/** One peer, and the sessions with it. */
export class Port {
    #engine;

    /** Ports are made by `connect`. */
    constructor(engine) {
        if (!(engine instanceof Engine)) throw new TypeError("a Port is made by `await connect(url)`");
        this.#engine = engine;
    }

    /** Whether it is over: the peer has gone, the link broke for good, or `close` was called. */
    get closed() {
        return this.#engine.ending !== null;
    }

    /** Whether there is a link at this moment. */
    get connected() {
        return this.#engine.ending === null && this.#engine.links.stands;
    }

    /** Send one message in a session of its own, and return its reply. */
    async request(payload, options = {}) {
        refuseUnknown("request()", options, SEND);
        const engine = this.#engine;
        const patience = engine.patience.with(options);
        options.signal?.throwIfAborted();
        let live = engine.openOnce(patience, options.signal);
        if (!(live instanceof LiveSession)) live = await live;
        try {
            return await live.send(payload, patience, options.signal);
        } finally {
            live.end();
        }
    }

    /** Send one message with many replies in a session of its own: an async iterator. */
    stream(payload, options = {}) {
        const engine = this.#engine;
        if (!engine.machine.dialect.asksExactly) throw new InvalidError(NEEDS_EXACT);
        const plan = planOf(engine.patience, options);
        return new Replies(() => engine.openOnce(plan.patience, plan.signal), true, payload, plan);
    }

    /** A new session, at once; `end()` it. */
    session(options = {}) {
        refuseUnknown("session()", options, PATIENCE);
        const patience = this.#engine.patience.with(options);
        const live = this.#engine.openSession();
        live.patience = patience;
        this.#engine.rests(live.dialogue);
        return live.face;
    }

    /** Send a payload that is no session's, as it is. */
    async post(payload) {
        const engine = this.#engine;
        engine.checkOpen();
        await engine.post(engine.machine.plain(payload), () => engine.checkOpen(), null);
    }

    /** Give up every send that waits: each gets its own CancelError. The sessions live on. */
    cancel() {
        this.#settleAll(endings.CANCELLED);
    }

    /** Cut off every send that waits: each gets its own AbortError, caused by `error`. */
    abort(error) {
        this.#settleAll(endings.aborted(error));
    }

    /** Let every send that waits time out now. */
    timeout() {
        this.#settleAll(endings.TIMED_OUT);
    }

    #settleAll(ending) {
        for (const dialogue of this.#engine.machine.all()) dialogue.owner.settle(ending);
    }

    /** End every session; a send that waits gets the error that `behavior` names. Their numbers stay used. */
    clear(behavior = "abort") {
        const ending = Object.hasOwn(endings.CLEARED, behavior) ? endings.CLEARED[behavior] : undefined;
        if (ending === undefined) {
            throw new RangeError(`behavior must be "abort", "cancel" or "timeout", not ${inWords(behavior)}`);
        }
        for (const dialogue of this.#engine.machine.all()) this.#engine.end(dialogue, ending);
    }

    /** End everything: each send that waits gets its own AbortError at once. Resolves when the socket is closed, within
     * `grace` seconds. Again, it does nothing. */
    close() {
        return this.#engine.close(endings.portLeft("the port was closed by close()"));
    }

    /** Leave gracefully: take no new sessions, wait for those there are for `timeout` seconds, close the port. Whether
     * all had come to their end. */
    async drain({ timeout = Infinity } = {}) {
        checkSeconds("timeout", timeout);
        const engine = this.#engine;
        engine.checkOpen();
        let cancel;
        const late = new Promise((resolve) => (cancel = engine.clock.after(timeout, () => resolve(false))));
        const isDrained = await Promise.race([engine.drain().then(() => true), engine.whenClosed().then(() => false), late]);
        cancel();
        await this.close();
        return isDrained;
    }

    /** Resolves when the port is over. */
    waitClosed() {
        return this.#engine.whenClosed();
    }

    /** A snapshot of the counters. */
    statistics() {
        return this.#engine.statistics();
    }
}
