// The server's API. The key lives in this module's memory and nowhere else.

let key = "";
let user = "";

export const person = () => user;

export function forgetKey() {
  key = user = "";
}

/** Who asks: what the key allows and whom it speaks for. */
export async function enter(givenKey, givenUser) {
  key = givenKey;
  const known = await call("GET", "v1/key");
  user = known.user_id ?? givenUser;
  return known;
}

/** A call on the user's data: `data("GET", "records", id)`. */
export function data(method, body, ...path) {
  // Browsers resolve the segments "." and ".." however they are written.
  if ([user, ...path].some((each) => each === "." || each === "..")) throw new Error("A browser cannot name this.");
  return call(method, ["v1/users", ...[user, ...path].map(encodeURIComponent)].join("/"), body);
}

async function call(method, path, body) {
  return (await send(method, path, body)).json();
}

async function send(method, path, body, signal) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const reply = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
  if (reply.ok) return reply;
  const said = await reply.json().catch(() => null);
  const error = new Error(said?.error?.message ?? `The server answered with ${reply.status}.`);
  error.status = reply.status;
  throw error;
}

/** An answer in pieces: `piece(text)` for each, then what of the user went into it. */
export async function answer(messages, personal, piece, signal) {
  const body = { messages, stream: true, persona: { enabled: personal }, ...(personal ? { user } : {}) };
  const reply = await send("POST", "v1/chat/completions", body, signal);
  let used = null;
  for await (const event of events(reply.body)) {
    if (event.error) throw new Error(event.error.message);
    used = event.persona ?? used;
    const text = event.choices?.[0]?.delta?.content;
    if (text) piece(text);
  }
  return used;
}

/** The JSON of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest += value ?? "";
    const lines = rest.split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const text = line.slice(5).trim();
      if (text === "[DONE]") return;
      yield JSON.parse(text);
    }
    if (done) return;
  }
}
