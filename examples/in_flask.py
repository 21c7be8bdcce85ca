"""A view of Flask's, which runs in threads: they share one port to a device.

python in_flask.py [DEVICE [PORT]]     needs pip install flask; DEVICE is ws://host:port, tcp://host:port, unix:///path
"""

import sys

from flask import Flask, abort, current_app

from psession import Exact, SessionError, SessionTimeoutError
from psession.blocking import open_port

app = Flask(__name__)


@app.get("/light")
def light():
    try:
        return current_app.lamp.request({"command": "status"}, timeout=0.5)
    except SessionTimeoutError:
        abort(504, "the lamp says nothing")
    except SessionError as error:
        abort(502, str(error))


if __name__ == "__main__":
    device = sys.argv[1] if sys.argv[1:] else "ws://127.0.0.1:8765"
    with open_port(device, dialect=Exact()) as app.lamp:
        app.run(port=int(sys.argv[2]) if sys.argv[2:] else 8000, threaded=True)
