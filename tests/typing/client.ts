// The types of clients/js, as a program uses them. tests/test_javascript_package.py has tsc look at it, strictly.
import {
    AbortError,
    connect,
    MessageError,
    Port,
    PortClosedError,
    RefusedError,
    RemoteError,
    Session,
    SessionError,
    TimeoutError,
} from "psession";
import type { LinkState, PortOptions, Replies, RequestContext, Statistics, TurnOutcome } from "psession";

interface Status {
    light: "on" | "off";
}

interface Command {
    command: string;
    degrees?: number;
}

const options: PortOptions = {
    dialect: "exact",
    timeout: 5,
    retryCount: Infinity,
    resumeWithin: 30,
    sessionIds: { first: 1, last: 99, step: 2 },
    fields: { turn: "_t" },
    logger: console,
    WebSocket,
    onState: ({ state, attempt, delay, known, error }: LinkState) => console.log(state, attempt + delay, known, error?.message),
    onRequest: async (message: Command, { signal }: RequestContext) => {
        signal.throwIfAborted();
        if (message.degrees === undefined) throw new RefusedError("no degrees", { code: "incomplete" });
        return { degrees: message.degrees };
    },
    onSession: async (session: Session) => {
        for await (const message of session) await session.post({ echo: message });
        await session.finish();
        const answer = await session.send<Status>({ question: 1 }, { timeout: 1 });
        answer.light satisfies "on" | "off";
    },
};

async function* many(): AsyncGenerator<Status> {
    yield { light: "on" };
}

export async function main(): Promise<void> {
    const port: Port = await connect(new URL("ws://127.0.0.1:1"), { ...options, onRequest: many, logger: null });
    const command: Command = { command: "status" }; // an interface has no index signature, and is a payload all the same
    const status = await port.request<Status>(command, { timeout: 1, signal: AbortSignal.timeout(5) });
    status.light satisfies "on" | "off";
    const replies: Replies<Status> = port.stream<Status>(command, { count: 3, credit: 2, total: 5 });
    for await (const { light } of replies) light satisfies "on" | "off";
    const session = port.session({ timeout: 2 });
    const { signal, sid }: { signal: AbortSignal; sid: number } = session;
    const received = await session.receive<Status>({ timeout: 0, signal });
    received.light satisfies "on" | "off";
    session.abort(new Error(`${sid}`));
    session.end();
    const { matched, late }: Statistics = port.statistics();
    try {
        await port.post({ hello: matched + late });
    } catch (error) {
        if (error instanceof RemoteError) `${error.code}: ${error.text}`.trim();
        if (error instanceof SessionError) error.outcome satisfies TurnOutcome | undefined;
        const closed: AbortError | undefined = error instanceof PortClosedError ? error : undefined;
        if (error instanceof TimeoutError || error instanceof MessageError) console.log(error.attempts, error.waited, closed);
    }
    port.clear("cancel");
    await Promise.all([port.close(), port.waitClosed()]);

    // What would be wrong at run time is wrong here:
    // @ts-expect-error - a payload is an object
    await port.request("status");
    // @ts-expect-error - there is no such option
    await port.request({}, { retries: 3 });
    // @ts-expect-error - it is a number of seconds
    await connect("ws://127.0.0.1:1", { timeout: "5" });
    // @ts-expect-error - there is no such wire
    await connect("ws://127.0.0.1:1", { dialect: "json-rpc" });
    // @ts-expect-error - it is not to be changed
    matched = 5;
    // @ts-expect-error - a port is made by connect()
    new Port();
    // @ts-expect-error - onSession is async
    await connect("ws://127.0.0.1:1", { onSession: () => 5 });
}
