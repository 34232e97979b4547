"""Rewrite the request with a language model on your own server.

Any server that supports OpenAI's protocol works (vLLM, Ollama, llama.cpp, a gateway). Here a
stand-in in this file answers, so the example runs anywhere.

Run: python examples/own_server.py
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from lens_sdk import FunctionGenerator, LLMReasoner, OpenAIChat, build_loop


class StandIn(BaseHTTPRequestHandler):
    """Answers every chat with the same rewrite."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = json.loads(body["messages"][-1]["content"])["request"]
        prompt = f"{asked.capitalize()}, seen from above on a wooden table in soft morning light."
        answer = {"decision": "rewrite", "prompt": prompt, "reason": "", "category": "none"}
        message = {"role": "assistant", "content": json.dumps(answer)}
        reply = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 500, "completion_tokens": 30, "total_tokens": 530},
        }
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Keep the terminal quiet."""


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    chat = OpenAIChat("my-model", base_url=f"http://127.0.0.1:{server.server_port}/v1")
    painter = FunctionGenerator(lambda prompt, seed: Image.new("RGB", (64, 64)), name="painter")
    result = build_loop(painter, reasoner=LLMReasoner(chat), judge=None).run_sync("a red apple")
    server.shutdown()

    assert result.best is not None
    print("Prompt:", result.best.image.prompt)
    print("Tokens:", result.usage.input_tokens, "in,", result.usage.output_tokens, "out")


if __name__ == "__main__":
    main()
