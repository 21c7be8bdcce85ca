// The links of one port: a WebSocket, and the next one when it breaks. Durations are seconds.

export const HELLO_INTERVAL = 0.5; // seconds after which a hello is said again
export const WELCOME_PATIENCE = 5; // seconds for the welcome of a peer that has given none before, and may know no such thing
const MESSAGES_BEFORE_WELCOME = 1024; // an honest peer says its welcome first of all
const BYTES_BEFORE_WELCOME = 2 ** 20;
const HIGH_WATER = 64 * 1024; // bytes in the socket's own buffer beyond which frames wait here, and can be withdrawn
const CLEAN_CODES = [1000, 1001, 1005]; // RFC 6455, section 7.4.1: normal, going away, no code
const LONGEST_TIMER = 2 ** 31 - 1; // milliseconds; setTimeout takes a longer one for 1
const OPEN = 1; // WebSocket.OPEN

/** The clock of this machine, which no change of the time of day moves. Tests have another. */
export const realClock = {
    now: () => performance.now() / 1000,

    /** Call back after so many seconds (Infinity: never). Return what cancels it. */
    after(seconds, callback) {
        let handle;
        const wait = (left) => {
            const time = Math.min(left, LONGEST_TIMER);
            handle = setTimeout(() => (left > time ? wait(left - time) : callback()), time);
        };
        if (seconds !== Infinity) wait(Math.ceil(Math.max(0, seconds) * 1000));
        return () => clearTimeout(handle);
    },
};

/** The links of one port, one after the other.
 *
 * @param options   WebSocket, protocols, resumeWithin, connectTimeout, firstDelay, maxDelay, backoff, jitter
 * @param handshake what the two ports tell each other about themselves
 * @param on        what is called: `stands(known)` when a link is about to stand (known: whether the peer still knows this
 *                  side, undefined on the first), `writable()` when it does, `data(data)` with each message,
 *                  `state(state)`, and `over(error, why)` when there will be no more links (no error: the peer closed
 *                  cleanly, or this side did); `read(data)` makes a message of data, undefined where it is none
 * @param luck      gives random numbers from 0 to 1 */
export class Links {
    #url;
    #options;
    #handshake;
    #clock;
    #luck;
    #on;
    #link = null; // { socket, phase: "opening" | "greeting" | "standing" | "over", opened, cancel }
    #isFirst = true;
    #isOver = false;
    #attempt = 0;
    #failures = 0;
    #due = 0; // when the next try is due
    #brokenBy;
    #cancelTry = () => {};
    #cancelPatience = () => {};
    #whenClosed = [];

    constructor(url, options, { handshake, clock, luck, on }) {
        this.#url = url;
        this.#options = options;
        this.#handshake = handshake;
        this.#clock = clock;
        this.#luck = luck;
        this.#on = on;
    }

    /** Whether there is a link. */
    get stands() {
        return this.#link?.phase === "standing";
    }

    /** Whether a frame that is sent now goes out soon. */
    get isWritable() {
        return this.stands && this.#link.socket.readyState === OPEN && this.#link.socket.bufferedAmount < HIGH_WATER;
    }

    send(text) {
        this.#link.socket.send(text);
    }

    /** Open the first link. Throws where the URL is none. */
    open() {
        this.#try();
        this.#beginPatience(`there was no link within ${this.#options.resumeWithin} s (resumeWithin)`);
    }

    // -- trying --

    /** From now on there may be `resumeWithin` seconds without a link. */
    #beginPatience(why) {
        const { resumeWithin } = this.#options;
        if (resumeWithin) this.#cancelPatience = this.#clock.after(resumeWithin, () => this.#end(this.#brokenBy, why));
    }

    #tryLater() {
        const delay = this.#due - this.#clock.now();
        if (delay > 0) this.#tell("waiting", { attempt: this.#attempt + 1, error: this.#brokenBy, delay });
        this.#cancelTry = this.#clock.after(delay, () => this.#try());
    }

    #try() {
        const { WebSocket, protocols, connectTimeout } = this.#options;
        const socket = new WebSocket(this.#url, protocols); // which throws on a URL that is none
        this.#attempt += 1;
        this.#tell("connecting", { attempt: this.#attempt, error: this.#brokenBy });
        const link = (this.#link = { socket, phase: "opening", opened: 0, cancel: () => {} });
        link.cancel = this.#clock.after(connectTimeout, () =>
            this.#lose(link, new Error(`the WebSocket was not open after ${connectTimeout} s (connectTimeout)`)),
        );
        socket.binaryType = "arraybuffer";
        socket.onopen = () => this.#opened(link);
        socket.onmessage = ({ data }) => this.#received(link, data);
        socket.onclose = (event) => this.#lose(link, closedBy(event, link.phase), CLEAN_CODES.includes(event.code));
        socket.onerror = (event) => {
            // The event of a browser says nothing, and "close" follows. Not so with Node: a failed try may end with this.
            const why = event?.error?.message || event?.message || "no reason given";
            if (link.phase === "opening") this.#lose(link, new Error(`the WebSocket did not open: ${why}`));
        };
    }

    #opened(link) {
        link.cancel();
        link.opened = this.#clock.now();
        if (this.#isFirst) this.#stand(link, undefined, []);
        else this.#greet(link);
    }

    /** Say hello until the peer says whether it still knows this side. */
    #greet(link) {
        const until = this.#handshake.ticket === null ? link.opened + WELCOME_PATIENCE : Infinity;
        Object.assign(link, { phase: "greeting", others: [], bytes: 0 });
        const hello = () => {
            if (this.#clock.now() >= until) {
                this.#stand(link, false, link.others); // a peer that knows no welcome does not know this side, either
                return;
            }
            link.socket.send(JSON.stringify(this.#handshake.hello()));
            link.cancel = this.#clock.after(HELLO_INTERVAL, hello);
        };
        hello();
    }

    #received(link, data) {
        if (link.phase === "standing") {
            this.#on.data(data);
        } else if (link.phase === "greeting") {
            const message = this.#on.read(data);
            const known = message === undefined ? null : this.#handshake.welcomed(message);
            if (known !== null) {
                this.#stand(link, known, link.others);
                return;
            }
            link.others.push(data);
            link.bytes += data.length ?? data.byteLength;
            if (link.others.length > MESSAGES_BEFORE_WELCOME || link.bytes > BYTES_BEFORE_WELCOME) {
                this.#lose(link, new Error("the peer said too much and no welcome, so this link is given up"));
            }
        }
    }

    /** This link is the one. The port hears of it before anything is written: a queue that was for a peer which has lost
     * its memory is for nobody else. */
    #stand(link, known, others) {
        link.cancel();
        this.#cancelPatience();
        this.#isFirst = false;
        this.#attempt = 0;
        this.#brokenBy = undefined;
        this.#on.stands(known);
        if (link.phase === "over") return;
        link.phase = "standing";
        this.#on.writable();
        this.#tell("open", { known });
        for (const data of others) if (link.phase === "standing") this.#on.data(data);
    }

    // -- losing --

    /** The link that stands is of no further use. */
    drop(error) {
        if (this.#link !== null) this.#lose(this.#link, error);
    }

    #lose(link, error, isClean = false) {
        if (link.phase === "over") return;
        const stood = link.phase === "standing";
        link.phase = "over";
        link.cancel();
        this.#link = null;
        letGo(link.socket);
        if (this.#whenClosed.length) {
            this.#end();
            return;
        }
        this.#brokenBy = error;
        const { resumeWithin, maxDelay, firstDelay, backoff, jitter } = this.#options;
        if (!resumeWithin || (stood && isClean && this.#handshake.peerLeft)) {
            this.#end(stood && isClean ? undefined : error, error.message);
            return;
        }
        // A server that accepts and drops at once is no better than one that does not accept.
        if (stood && this.#clock.now() - link.opened >= maxDelay) this.#failures = 0;
        const wait = Math.min(maxDelay, firstDelay * backoff ** this.#failures) * (1 + jitter * this.#luck());
        this.#due = this.#clock.now() + wait;
        this.#failures += 1;
        if (stood) {
            this.#beginPatience(`the link broke, and did not come back within ${resumeWithin} s (resumeWithin)`);
            this.#tell("broken", { error });
        }
        if (!this.#isOver) this.#tryLater();
    }

    #end(error, why) {
        if (this.#isOver) return;
        this.#isOver = true;
        this.#cancelTry();
        this.#cancelPatience();
        if (this.#link !== null) {
            this.#link.phase = "over";
            this.#link.cancel();
            letGo(this.#link.socket);
            this.#link = null;
        }
        this.#tell("closed", { error });
        for (const resolve of this.#whenClosed.splice(0)) resolve();
        this.#on.over(error, why);
    }

    /** Close, after what was sent has gone out, within `grace` seconds; there are no more links. */
    close(grace) {
        if (this.#isOver) return Promise.resolve();
        return new Promise((resolve) => {
            this.#whenClosed.push(resolve);
            if (this.#whenClosed.length > 1) return;
            if (!this.stands) {
                this.#end();
                return;
            }
            this.#link.socket.close(1000);
            this.#cancelTry = this.#clock.after(grace, () => this.#end());
        });
    }

    #tell(state, { attempt = 0, error, delay = 0, known } = {}) {
        this.#on.state({ state, attempt, error, delay, known });
    }
}

/** Nothing more is heard of a socket, and it is closed. */
function letGo(socket) {
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.onerror = () => {}; // the library ws throws an error that nobody hears
    socket.close();
}

function closedBy({ code, reason }, phase) {
    const what = phase === "opening" ? "the WebSocket did not open" : "the WebSocket was closed";
    const error = new Error(`${what}: code ${code}${reason ? `, ${JSON.stringify(reason)}` : ""}`);
    return Object.assign(error, { code, reason });
}
