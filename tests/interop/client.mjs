// A program that uses clients/js over a real WebSocket, with a server in Python.
//
//   node client.mjs ACT URL [OPTIONS]   plays the act of that name and prints what it found, as a line of JSON; OPTIONS is
//                                       a JSON object for connect(), and "ws" in it takes the WebSocket of that package
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import * as psession from "../../clients/js/psession.js";

const [, , act, url, given = "{}"] = process.argv;
const { ws = false, ...options } = JSON.parse(given);
const WebSocket = ws ? createRequire(`${process.cwd()}/`)("ws").WebSocket : globalThis.WebSocket;
const connect = (more) => psession.connect(url, { WebSocket, ...options, ...more });
const count = (size) => Array.from({ length: size }, (_, n) => n);
const told = ({ name, code, text, outcome, attempts }) => ({ name, code, text, outcome, attempts });
const failure = (promise) => promise.then((value) => assert.fail(`no error, but ${JSON.stringify(value)}`), told);

/** Ten turns of one session, then 200 sessions at once, each with its own answer. */
async function asks(port) {
    const session = port.session();
    for (const n of count(10)) assert.deepEqual(await session.send({ value: n }), { value: n });
    session.end();
    await Promise.all(
        count(200).map(async (n) => assert.deepEqual(await port.request({ value: `token ${n}` }), { value: `token ${n}` })),
    );
    return 210;
}

/** How often each value was asked for. */
const runs = new Map();
const answers = async ({ value }) => {
    runs.set(value, (runs.get(value) ?? 0) + 1);
    return { value };
};

const acts = {
    async asks() {
        const port = await connect();
        const turns = await asks(port);
        const { matched, open, classic } = port.statistics();
        await port.close();
        return { turns, matched, open, classic };
    },

    /** Answers until its peer leaves. */
    async answers() {
        const port = await connect({
            onRequest: answers,
            onSession: async (session) => {
                for await (const message of session) await session.post(await answers(message));
            },
        });
        await port.waitClosed();
        return { asked: runs.size, most: Math.max(...runs.values()) };
    },

    /** Both ask at once, over one socket and with the numbers that each has by default. */
    async both() {
        const port = await connect({ onRequest: answers });
        const turns = await asks(port);
        await port.post({ done: true });
        await port.waitClosed();
        return { turns, asked: runs.size, most: Math.max(...runs.values()) };
    },

    async streams() {
        const port = await connect({ timeout: 10 });
        const found = {};
        const take = async (replies) => {
            const got = [];
            for await (const { n } of replies) got.push(n);
            return got.length === 0 ? [] : [got.length, got.every((n, place) => n === place)];
        };
        found.all = await take(port.stream({ count: 1000 }));
        found.none = await take(port.stream({ count: 0 }));
        found.some = await take(port.stream({ count: 1000 }, { count: 40 }));
        found.narrow = await take(port.stream({ count: 100 }, { credit: 1 }));
        const session = port.session();
        found.dialogue = [await take(session.stream({ count: 3 })), (await session.send({ count: 1 })).n];
        session.end();
        found.refused = await failure(take(port.stream({ refuse: "too_many" })));
        found.broken = await failure(take(port.stream({ count: 3, crash: true })));
        found.total = await failure(take(port.stream({ count: 1e9, pause: 0.01 }, { total: 0.2 })));
        const replies = port.stream({ count: 1e9 });
        await replies.next();
        await replies.return();
        await port.close();
        return found;
    },

    async gives() {
        let left = 0;
        const port = await connect({
            async *onRequest({ count: most }) {
                try {
                    for (let n = 0; n < most; n++) yield { n };
                } finally {
                    left += 1;
                }
            },
        });
        await port.waitClosed();
        return { left };
    },

    async refusals() {
        const port = await connect({
            onRequest: async ({ how }) => {
                if (how === "refuse") throw new psession.RefusedError("it is locked", { code: "locked" });
                throw new Error("a secret");
            },
            logger: null,
        });
        const refused = await failure(port.request({ how: "refuse" }));
        const crashed = await failure(port.request({ how: "crash" }));
        const late = await failure(port.request({ how: "wait" }, { timeout: 0.1, retryCount: 1, retryInterval: 0 }));
        const aborted = await failure(port.request({ how: "wait" }, { signal: AbortSignal.timeout(50) }));
        await port.post({ done: true });
        await port.waitClosed();
        return { refused, crashed, late, aborted };
    },

    /** What it asks for breaks the link while it is done. */
    async resumes() {
        const states = [];
        const port = await connect({ onRequest: answers, onState: ({ state, known }) => states.push([state, known]) });
        await port.request({ value: 0 }); // from the first answer on the peers know each other
        const reply = await port.request({ value: 1, break: "while it works" });
        const parts = [];
        for await (const { n } of port.stream({ count: 100, break: "in the middle" })) parts.push(n);
        assert.deepEqual(parts, count(100));
        await port.post({ done: true });
        await port.waitClosed();
        const { resumed, forgotten } = port.statistics();
        return { reply, resumed, forgotten, most: Math.max(...runs.values()), states };
    },

    /** Its server is another after the break. */
    async restarts() {
        const states = [];
        const port = await connect({ onState: ({ state, known }) => states.push([state, known]) });
        await port.request({ value: 0 });
        const lost = await failure(port.request({ value: 1, break: "for good" }));
        const reply = await port.request({ value: 2 });
        await port.close();
        return { lost, reply, known: states.filter(([state]) => state === "open").map(([, known]) => known) };
    },

    /** Nobody is there any more, or nobody was. */
    async gone() {
        const never = await psession.connect("ws://127.0.0.1:1/", { WebSocket, connectTimeout: 5 }).catch(told);
        const port = await connect();
        const lost = await failure(port.request({ value: 1, break: "for good" }));
        await port.waitClosed();
        return { never, lost, after: await failure(port.request({ value: 2 })) };
    },

    async limits() {
        const port = await connect({ maxMessageBytes: 2 ** 20 });
        const text = "x".repeat(2 ** 20 - 200);
        const large = (await port.request({ value: text })).value === text;
        const tooLarge = await failure(port.request({ value: "x".repeat(2 ** 20) }));
        const unicode = "\u{1f600} \u2028 \0 \\ud800 \u00e9".repeat(100);
        const same = (await port.request({ value: unicode })).value === unicode;
        await port.close();
        return { large, tooLarge, same };
    },

    /** A reply that came while nobody looked. */
    async blocked() {
        const port = await connect({ timeout: 0.3 });
        const asked = port.request({ value: 1, wait: 0.1 });
        await new Promise((resolve) => setTimeout(resolve, 20));
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1500); // nothing else runs in this thread meanwhile
        const reply = await asked;
        await port.close();
        return reply;
    },
};

console.log(JSON.stringify(await acts[act]()));
// No exit: nothing that is left may keep the process alive.
