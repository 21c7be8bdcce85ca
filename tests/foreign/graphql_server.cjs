// A server of graphql-ws, with one lamp. It prints its port.
const { buildSchema, GraphQLError } = require("graphql");
const { useServer } = require("graphql-ws/use/ws");
const { WebSocketServer } = require("ws");

const schema = buildSchema(`
  type Lamp { name: String! watts: Int! }
  type Query { lamp(id: ID!): Lamp stopped: Int! }
  type Subscription { fade(to: Int): Int! fail: Int! }
`);

let stop;
const stopped = new Promise((resolve) => (stop = resolve));

async function* fade({ to }) {
  let value = 0;
  try {
    while (to == null || value < to) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      yield { fade: ++value };
    }
  } finally {
    if (to == null) stop(value);
  }
}

async function* fail() {
  yield { fail: 1 };
  throw new GraphQLError("the lamp broke");
}

const roots = {
  query: { lamp: ({ id }) => ({ name: `lamp ${id}`, watts: 9 }), stopped: () => stopped },
  subscription: { fade, fail },
};

const server = new WebSocketServer({ port: 0, host: "127.0.0.1", path: "/graphql" });
useServer({ schema, roots, onConnect: (context) => context.connectionParams?.token === "sesame" }, server);
server.on("listening", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
