// The wire: JSON, server-sent events, and errors as sentences.

export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Event data out of bytes that may be cut anywhere, inside a line or inside a character. */
export class EventReader {
  #decoder = new TextDecoder();
  #rest = "";
  #data = [];

  push(bytes) {
    this.#rest += this.#decoder.decode(bytes, { stream: true });
    const found = [];
    let from = 0;
    for (;;) {
      const end = this.#rest.indexOf("\n", from);
      if (end < 0) break;
      const line = this.#rest.slice(from, this.#rest[end - 1] === "\r" ? end - 1 : end);
      from = end + 1;
      if (line === "") {
        if (this.#data.length) found.push(this.#data.join("\n"));
        this.#data = [];
      } else if (line.startsWith("data:")) {
        this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
    this.#rest = this.#rest.slice(from);
    return found;
  }
}

function headers(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function place(path) {
  return new URL(path, document.baseURI); // the server may stand behind a prefix
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(place(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server cannot be reached; is it still running?");
  }
  if (response.ok) return response;
  throw await refusal(response);
}

async function refusal(response) {
  const { status } = response;
  let message = "";
  try {
    message = (await response.json()).error?.message ?? "";
  } catch {}
  if (status === 429) {
    const wait = response.headers.get("Retry-After");
    const when = wait && /^\d+$/.test(wait) ? `in ${wait} second${wait === "1" ? "" : "s"}` : "soon";
    return new Failure(`The server is busy; try again ${when}.`, status);
  }
  if (status === 401) {
    return new Failure(message || "The server wants an API key.", status);
  }
  return new Failure(message || `The server answered with status ${status}.`, status);
}

export async function getJson(path, key) {
  const response = await request(path, { headers: headers(key) });
  try {
    return await response.json();
  } catch {
    throw new Failure(`What the server sent for ${path} is not JSON.`);
  }
}

/** Ask for an answer, and hand every event of its stream to `onEvent`. */
export async function stream(path, body, { key, signal, onEvent }) {
  const response = await request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers(key) },
    body: JSON.stringify(body),
    signal,
  });
  const events = new EventReader();
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      for (const data of events.push(value)) {
        if (data === "[DONE]") return;
        let event;
        try {
          event = JSON.parse(data);
        } catch {
          throw new Failure("The server sent something that is not JSON.");
        }
        if (event.error) throw new Failure(event.error.message || "The server gave up.");
        onEvent(event);
      }
    }
  } catch (error) {
    if (error instanceof Failure || error.name === "AbortError") throw error;
    if (!(error instanceof TypeError)) throw error; // a fault of ours, not of the connection
  } finally {
    reader.cancel().catch(() => {}); // frees the server where we are the ones who stop reading
  }
  throw new Failure("The connection ended before the answer did.");
}
