"""A server of GraphQL as the peer: ask, hear values as they come, and stop. Subprotocol graphql-transport-ws.

python graphql_client.py URL     of a server that knows the lamp of tests/foreign/graphql_server.cjs
"""

import sys

import trio

from psession import SessionManager, SessionRemoteError
from psession.channels import open_websocket
from psession.dialects import GraphqlWs


async def main(url):
    manager = SessionManager(dialect=GraphqlWs(), session_timeout=10, on_message=print)
    async with (
        open_websocket(url, subprotocols=["graphql-transport-ws"]) as channel,
        manager.port("graphql", channel) as graphql,
    ):
        await graphql.request({"type": "connection_init", "payload": {"token": "sesame"}})
        asked = {"query": "query ($id: ID!) { lamp(id: $id) { name watts } }", "variables": {"id": "7"}}
        lamp = (await graphql.request(asked))["data"]["lamp"]
        print(f"{lamp['name']}: {lamp['watts']} W")
        try:
            await graphql.request({"query": "{ lamp { colour } }"})
        except SessionRemoteError as error:
            print(f"error {error.code}: {error.data[0]['message']}")
        async with graphql.stream({"query": "subscription { fade(to: 3) }"}) as parts:
            async for part in parts:
                print("fades:", part["data"]["fade"])
        async with graphql.stream({"query": "subscription { fade }"}) as parts:
            async for part in parts:
                if part["data"]["fade"] == 2:
                    print("enough")
                    break
        stopped = await graphql.request({"query": "{ stopped }"})  # answered when one is
        print("the server heard it:", stopped["data"]["stopped"])


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
