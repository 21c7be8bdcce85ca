/**
 * Request/reply sessions over a WebSocket, for pages and for Node: the peer of a psession port.
 *
 * All durations are seconds; `Infinity` is no limit. README.md is the guide.
 */

/** What the application sends: an object that JSON has a form for, without a field of psession's own. It is not changed. */
export type Payload = object;

/** What is known of a turn that failed: `"not_sent"` and `"refused"` are safe to ask again, `"sent"` may have been done. */
export type TurnOutcome = "not_sent" | "refused" | "sent";

/** How long a turn may take. */
export interface Patience {
    /** Seconds that each attempt waits, not the call; 60 by default. */
    timeout?: number;
    /** Attempts after the first; 0 by default. Only silence is retried. */
    retryCount?: number;
    /** Seconds between two attempts; 1 by default. A reply that comes in between is the reply. */
    retryInterval?: number;
}

export interface SendOptions extends Patience {
    /** Gives the turn up: the call rejects with the signal's reason, and an exact peer is told once. */
    signal?: AbortSignal;
}

export interface StreamOptions extends SendOptions {
    /** Seconds for the whole of it, which nothing extends; no limit by default. */
    total?: number;
    /** How many replies are wanted; all by default. */
    count?: number;
    /** How many replies this side has room for; beyond it the peer's handler waits. 32 by default. */
    credit?: number;
}

export interface ReceiveOptions {
    /** Seconds to wait; without it until the session is over. 0 takes what is there. */
    timeout?: number;
    signal?: AbortSignal;
}

/** What `onRequest` gets beside the message. */
export interface RequestContext {
    /** Aborted when the asker gives the turn up, its time is over, or the port is closed. */
    readonly signal: AbortSignal;
}

/** A step in the life of a port's links. */
export interface LinkState {
    /** `"connecting"`: a try begins; `"open"`: a link stands; `"broken"`: it is of no further use; `"waiting"`: nothing
     * happens for `delay` seconds; `"closed"`: there will be no more links. */
    readonly state: "connecting" | "open" | "broken" | "waiting" | "closed";
    /** Which try of this opening it is, from 1; the one to come for `"waiting"`, 0 where there is none. */
    readonly attempt: number;
    /** What went wrong last, where it is known. */
    readonly error: Error | undefined;
    /** Seconds until the next try, for `"waiting"`. */
    readonly delay: number;
    /** For `"open"`, from the second link on: whether the peer still knows this side, so that nothing is lost. */
    readonly known: boolean | undefined;
}

/** Where lines go: `console` will do. `info` has what a good peer on a bad network may cause. */
export interface Logger {
    info?(...words: unknown[]): void;
    warn?(...words: unknown[]): void;
    error?(...words: unknown[]): void;
}

/** What a WebSocket has to be. */
export type WebSocketConstructor = new (url: string, protocols?: string | string[]) => any;

export interface PortOptions extends Patience {
    /** The wire that this side asks on; `"exact"` by default. What the peer asks is answered on the wire it was asked on. */
    dialect?: "exact" | "classic";
    /** Answers what the peer asks: what it returns is the answer. An async generator function gives many: each `yield` is
     * one reply to a stream, the first is the reply to a request. Throw a `RefusedError` to refuse. */
    onRequest?: (message: any, context: RequestContext) => unknown;
    /** Called with each session that the peer opens; the session is over when its promise is settled. */
    onSession?: (session: Session) => Promise<void>;
    /** Called with each message that is no session's; an async one has its messages one at a time. */
    onMessage?: (message: any) => unknown;
    /** Called at each step in the life of the links. */
    onState?: (state: LinkState) => void;
    /** Seconds that a break of the link may last without ending the port; 0, the default: not at all. Exact wire only. */
    resumeWithin?: number;
    /** The subprotocols that are offered. */
    protocols?: string | string[];
    /** The WebSocket to use; by default the global one, which Node has from version 22 on. */
    WebSocket?: WebSocketConstructor;
    /** Aborting it closes the port, while it is being opened as well. */
    signal?: AbortSignal;

    /** Seconds for one try; 10 by default. */
    connectTimeout?: number;
    /** Seconds before the first try after a link broke: `min(maxDelay, firstDelay * backoff ** failures) * (1 + jitter *
     * random)`; 0.1 by default. A link that broke less than `maxDelay` seconds after it opened is one more failure. */
    firstDelay?: number;
    /** 30 by default. */
    maxDelay?: number;
    /** 2 by default. */
    backoff?: number;
    /** 0.5 by default. */
    jitter?: number;
    /** Seconds of silence after which an exact peer is asked for a sign of life; 20 by default, `Infinity` for never. */
    keepaliveInterval?: number;
    /** Seconds that it may take to give one, before the link counts as broken; 10 by default. */
    keepalivePatience?: number;
    /** Seconds that closing gives the peer for its goodbye; 1 by default. */
    grace?: number;

    /** The field that holds the session's number; `"sid"` by default. */
    sessionIdName?: string;
    /** Other names for the fields of the exact wire, by their own without the underscore: `{turn: "_t"}`. */
    fields?: Partial<
        Record<
            | "turn" | "re" | "new" | "end" | "error" | "wait" | "life" | "part" | "credit"
            | "traceparent" | "tracestate" | "port" | "resume",
            string
        >
    >;
    /** Tells of a message without exact fields whether it asks something, whatever its number says. */
    isQuestion?: (message: any) => boolean;
    /** The numbers that this side hands out; by default 65,535 from 1 on, or from 65536 on with a handler. */
    sessionIds?: { first: number; last: number; step?: number };
    /** Seconds that a number rests after a turn that was not answered; 60 by default. */
    sessionIdRest?: number;
    /** Seconds that a session may be idle; 600 by default. */
    sessionMaxLife?: number;
    /** How many sessions this side may have open; 65,535 by default. */
    maxSessionCount?: number;
    /** When all numbers are in use or rest: end the session opened first, throw an `OverflowError`, or wait (`request`
     * and `stream`; `session()` throws). */
    onSessionOverflow?: "recycle" | "refuse" | "wait";
    /** What the next `send` of a session does after a turn whose reply may still come: take a fresh number, keep the old
     * one, or find the session ended. */
    onUnanswered?: "fresh" | "keep" | "end";
    /** How many sessions of the peer may be at work; 4,096 by default. */
    maxIncomingSessions?: number;
    /** How many messages a session holds that nobody has received; 1,024 by default. */
    inboxLimit?: number;
    /** How many bytes such messages, and requests at work, may take in all, as they came; 16 MiB by default. */
    maxHeldBytes?: number;
    /** How many bytes may wait to be sent before `post` waits; 256 KiB by default. */
    maxQueuedBytes?: number;
    /** How many bytes of answers are kept for a peer that asks again; 4 MiB by default. */
    maxAnswerBytes?: number;
    /** How long a message may be, either way; 1 MiB by default. */
    maxMessageBytes?: number;
    /** Whether turns say how long they wait, and handlers are aborted when the time of their asker is over; true. */
    deadlines?: boolean;
    /** Whether an exact asker is told what a handler crashed with; false. */
    debug?: boolean;
    /** Where lines go; by default warnings and errors to the console. `null`: nowhere. */
    logger?: Logger | null;
}

/** Counters, and the first five as they are now. */
export interface Statistics {
    readonly open: number;
    readonly incoming: number;
    readonly resting: number;
    readonly queuedBytes: number;
    readonly heldBytes: number;
    readonly opened: number;
    readonly accepted: number;
    readonly matched: number;
    readonly plain: number;
    readonly timedOut: number;
    readonly cancelled: number;
    readonly aborted: number;
    readonly recycled: number;
    readonly expired: number;
    readonly crashed: number;
    readonly classic: number;
    readonly failed: number;
    readonly unread: number;
    readonly repeated: number;
    readonly givenUp: number;
    readonly resumed: number;
    readonly forgotten: number;
    readonly sent: number;
    readonly bytesSent: number;
    readonly bytesReceived: number;
    /** Messages of the peer's that were dropped, by reason. */
    readonly late: number;
    readonly duplicate: number;
    readonly unknownSid: number;
    readonly noSession: number;
    readonly noHandler: number;
    readonly staleOwn: number;
    readonly stalePeer: number;
    readonly malformed: number;
    readonly overrun: number;
    readonly refused: number;
    readonly closing: number;
    readonly unheard: number;
}

/**
 * Open a port to the peer at a `ws:` or `wss:` URL.
 *
 * Resolves when the first link stands. With `resumeWithin` it is tried for that long.
 *
 * @throws PortClosedError There was no link; `cause` says why.
 * @throws TypeError, RangeError An option that will not do.
 * @throws DOMException The URL is none, or `signal` was aborted.
 */
export function connect(url: string | URL, options?: PortOptions): Promise<Port>;

/** Many replies to one message, in order and each once. Nothing is sent before the first `next()`; leaving the loop before
 * the end gives the turn up, and the peer is told. */
export interface Replies<Reply> extends AsyncIterableIterator<Reply> {
    return(value?: any): Promise<IteratorResult<Reply>>;
}

/** One peer, and the sessions with it. */
export class Port {
    private constructor();

    /** Whether it is over: the peer has gone, the link broke for good, or `close` was called. */
    readonly closed: boolean;
    /** Whether there is a link at this moment. */
    readonly connected: boolean;

    /**
     * Send one message in a session of its own, and return its reply.
     *
     * Takes `(retryCount + 1) * timeout + retryCount * retryInterval` seconds at the most.
     *
     * @throws TimeoutError No reply in that time.
     * @throws RemoteError The peer answered with an error (exact wire): `code`, `text`, `outcome`.
     * @throws CancelError, AbortError, PortClosedError The turn was given up, cut off, or lost with the port.
     * @throws OverflowError No session number is free.
     * @throws MessageError The payload cannot travel.
     */
    request<Reply = any>(payload: Payload, options?: SendOptions): Promise<Reply>;

    /** Send one message with many replies in a session of its own (exact wire). */
    stream<Reply = any>(payload: Payload, options?: StreamOptions): Replies<Reply>;

    /**
     * A new session, at once; `end()` it.
     *
     * @throws OverflowError, PortClosedError
     */
    session(options?: Patience): Session;

    /** Send a payload that is no session's, as it is. Resolves when it is accepted. */
    post(payload: Payload): Promise<void>;

    /** Give up every send that waits: each gets its own `CancelError`. The sessions live on. */
    cancel(): void;
    /** Cut off every send that waits: each gets its own `AbortError`, caused by `error`. */
    abort(error?: unknown): void;
    /** Let every send that waits time out now. */
    timeout(): void;
    /** End every session; a send that waits gets the error of that name. */
    clear(behavior?: "abort" | "cancel" | "timeout"): void;

    /** End everything: each send that waits gets its own `AbortError` at once. Resolves when the socket is closed, within
     * `grace` seconds. Again, it does nothing. */
    close(): Promise<void>;
    /** Leave gracefully: take no new sessions (an exact peer is told so), wait for those there are, close the port.
     * Resolves to whether all had come to their end in `timeout` seconds. */
    drain(options?: { timeout?: number }): Promise<boolean>;
    /** Resolves when the port is over. */
    waitClosed(): Promise<void>;
    /** A snapshot of the counters. */
    statistics(): Statistics;
}

/** One dialogue with the peer. Turns are one at a time: a second `send` waits for the first. */
export class Session implements AsyncIterable<any> {
    private constructor();

    /** Its number. After a turn whose reply may still come the next `send` takes a fresh one. */
    readonly sid: number;
    /** Whether the peer opened it. */
    readonly incoming: boolean;
    /** Whether it is over. */
    readonly closed: boolean;
    /** Aborted when it is over: nobody wants the work of its handler any more. */
    readonly signal: AbortSignal;

    /** Send a payload, and return the peer's reply to it. Throws as `Port.request`, and an `InvalidError` after the end. */
    send<Reply = any>(payload: Payload, options?: SendOptions): Promise<Reply>;
    /** Send a payload, and receive many replies to it (exact wire). */
    stream<Reply = any>(payload: Payload, options?: StreamOptions): Replies<Reply>;
    /** Send a payload that wants no reply. Resolves when it is accepted, in order; in answer to a stream of the peer's it
     * is one reply, and waits while the asker has no room. */
    post(payload: Payload): Promise<void>;
    /** End the answer to the turn that was received, with a payload if there is one. */
    finish(payload?: Payload): Promise<void>;
    /**
     * The next message of the peer's that is no reply to a `send`.
     *
     * @throws TimeoutError Nothing came in `timeout` seconds.
     * @throws InvalidError The session is over, and all that had come was received.
     */
    receive<Message = any>(options?: ReceiveOptions): Promise<Message>;
    /** Iterate over what the peer says; stops when the session ends cleanly. Leaving the loop leaves the session open. */
    [Symbol.asyncIterator](): AsyncIterator<any>;

    /** Give up the sends that wait: each gets a `CancelError`. The session lives on. */
    cancel(): void;
    /** Cut off the sends that wait: each gets an `AbortError`, caused by `error`. The session lives on. */
    abort(error?: unknown): void;
    /** Let the sends that wait time out now, their remaining attempts included. */
    timeout(): void;
    /** End the session. Sends that wait get a `CancelError`; an exact peer is told. Again, it does nothing. */
    end(): void;
}

/** The root of all errors that psession throws on purpose. */
export class SessionError extends Error {
    constructor(why?: string, known?: { cause?: unknown });
    /** What happened and what to do about it, without the data below. */
    readonly why: string;
    readonly sid: number | undefined;
    /** How many times the turn's message was given to the socket. */
    readonly attempts: number;
    /** Seconds from the start of the turn to the error. */
    readonly waited: number;
    readonly outcome: TurnOutcome | undefined;
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

/** The peer answered the turn with an error. */
export class RemoteError extends SessionError {
    /** What kind of error, for programs: `"refused.locked"`, `"crashed"`, ... */
    readonly code: string;
    /** More about it, for people; may be empty. */
    readonly text: string;
}

/** For a handler to throw: nothing was done, and why. Its asker gets a `RemoteError` with the code `refused.` and this. */
export class RefusedError extends SessionError {
    constructor(why?: string, known?: { code?: string; cause?: unknown });
    readonly code: string;
}

/** A message that cannot travel. The session and the port live on. */
export class MessageError extends SessionError {}
/** The message cannot be written as JSON, or has a field of psession's own. */
export class MalformedMessageError extends MessageError {}
/** The message is larger than `maxMessageBytes`. */
export class MessageTooLargeError extends MessageError {}
