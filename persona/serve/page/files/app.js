// The page as a whole: who comes in, what is shown, and how everything is forgotten.

import * as api from "./api.js";
import * as chat from "./chat.js";
import { by, make, say } from "./dom.js";
import * as held from "./held.js";

by("enter").addEventListener("submit", async (event) => {
  event.preventDefault();
  await enter(by("key").value.trim(), by("user").value);
});

async function enter(key, user) {
  const refused = by("refused");
  refused.textContent = "";
  try {
    const known = await api.enter(key, user);
    if (!api.person()) throw new Error("This key speaks for any user: name one.");
    const may = (scope) => known.scopes.includes(scope) || known.scopes.includes("admin");
    await held.open(may);
    chat.open(may);
  } catch (error) {
    api.forgetKey();
    refused.textContent = error.message;
    (/user/.test(error.message) ? by("user") : by("key")).focus();
    return;
  }
  by("enter").reset();
  by("who").textContent = by("sure-who").textContent = api.person();
  by("door").hidden = true;
  by("rooms").hidden = false;
  by("request").focus();
}

function leave() {
  api.forgetKey();
  chat.close();
  held.close();
  by("rooms").hidden = true;
  by("door").hidden = false;
  by(by("key").hidden ? "user" : "key").focus();
}

function show(part) {
  document.querySelector(".rooms").dataset.shown = part;
  for (const each of ["chat", "held"]) by(`show-${each}`).setAttribute("aria-pressed", String(each === part));
}

async function erase() {
  by("erase").disabled = true;
  try {
    const receipt = await api.data("DELETE");
    by("sure").close();
    chat.close();
    held.close();
    showReceipt(receipt);
  } catch (error) {
    by("sure-text").append(make("span", { class: "error", role: "alert" }, ` ${error.message}`));
  } finally {
    by("erase").disabled = false;
  }
}

function showReceipt(receipt) {
  const rows = receipt.parts.filter((part) => part.removed || part.left);
  const cells = (part) => [make("th", { scope: "row" }, part.what), make("td", {}, part.removed), make("td", {}, part.left)];
  by("receipt-title").textContent = receipt.complete ? "Everything was erased" : "Something is left";
  by("receipt-text").replaceChildren(make("div", {},
    make("p", { class: "soft" }, `${receipt.user_id}, ${receipt.time.replace("T", " ").replace("+00:00", " UTC")}`),
    make("table", {},
      make("thead", {}, make("tr", {}, ...["What", "Removed", "Left, read back"].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...rows.map((part) => make("tr", {}, ...cells(part))))),
    Object.keys(receipt.dropped).length > 0 && make("p", {}, "From the server's memory: ",
      Object.entries(receipt.dropped).map(([what, number]) => `${what}: ${number}`).join(", "), "."),
    make("h3", {}, "Beyond its reach"),
    make("ul", {}, ...receipt.not_reached.map((each) => make("li", {}, each)))));
  by("save").onclick = () => save(receipt);
  by("receipt").showModal();
  say(by("receipt-title").textContent);
}

function save(receipt) {
  const address = URL.createObjectURL(new Blob([JSON.stringify(receipt, null, 2)], { type: "application/json" }));
  make("a", { href: address, download: "erasure-receipt.json" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

by("lock").addEventListener("click", leave);
by("show-chat").addEventListener("click", () => show("chat"));
by("show-held").addEventListener("click", () => show("held"));
by("forget").addEventListener("click", () => by("sure").showModal());
by("keep").addEventListener("click", () => by("sure").close());
by("erase").addEventListener("click", erase);
by("done").addEventListener("click", () => by("receipt").close());
by("receipt").addEventListener("close", leave);

// Until the first key is made, a server on this machine asks for none.
const free = await api.enter("", "").then(() => true, () => false);
for (const each of document.querySelectorAll("[for=key], #key, #key-hint")) each.hidden = free;
if (free) by("user-hint").textContent = "No key is needed on this machine until one is made.";
by(free ? "user" : "key").focus();
