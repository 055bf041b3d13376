// The list of all episodes and its filters.
const ORDERS = {
  first: ["iteration", (a, b) => a[0] - b[0] || a[1] - b[1]],
  last: ["newest iteration", (a, b) => b[0] - a[0] || a[1] - b[1]],
  long: ["longest", (a, b) => b[4] - a[4]],
  short: ["shortest", (a, b) => a[4] - b[4]],
  switches: ["most switches", (a, b) => b[5] - a[5]],
  refused: ["most refused actions", (a, b) => b[6] - a[6]],
};
const filters = (rows, plan) => {
  const some = (k) => [...new Set(rows.map((row) => row[k]))].sort((a, b) =>
    typeof a === "number" ? b - a : a < b ? -1 : 1);
  return make("form", { class: "filters", "aria-label": "Which episodes" },
    choice("Iteration", "f-step", [["", "all"], ...some(0).map((s) => [s, s])]),
    choice("Result", "f-won", [["", "all"], ["1", "won"], ["0", "not won"]]),
    choice("Task type", "f-type", [["", "all"],
      ...some(3).map((t) => [t, t.replaceAll("_", " ")])]),
    amount("Turns from", "f-least"), amount("to", "f-most"),
    plan ? amount("Switches from", "f-switches") : null,
    tick("refused actions", "f-refused"), tick("badly formed", "f-formed"),
    tick("shortened prompts", "f-cut"),
    choice("Order", "f-order", Object.entries(ORDERS)
      .filter(([key]) => plan || key !== "switches")
      .map(([key, [name]]) => [key, name])));
};
const asked = (form) => {
  const value = (id) => form.querySelector(`#${id}`)?.value ?? "";
  const on = (id) => form.querySelector(`#${id}`).checked;
  const [least, most] = [Number(value("f-least")), value("f-most")];
  const keep = (row) =>
    (value("f-step") === "" || row[0] === Number(value("f-step"))) &&
    (value("f-won") === "" || row[2] === Number(value("f-won"))) &&
    (value("f-type") === "" || row[3] === value("f-type")) &&
    row[4] >= least && (most === "" || row[4] <= Number(most)) &&
    row[5] >= Number(value("f-switches")) &&
    (!on("f-refused") || row[6] > 0) && (!on("f-formed") || row[7] > 0) &&
    (!on("f-cut") || row[8] > 0);
  return { keep, order: ORDERS[value("f-order")][1] };
};

const start = async () => {
  const head = await unpack(data.textContent);
  const rows = head.episodes;
  const form = filters(rows, head.plan);
  const status = make("p", { role: "status", class: "soft" });
  const list = make("ol", { class: "list" });
  const more = make("button", { type: "button" }, "Show more");
  const place = make("div", { class: "place" });
  let found = [], shownRows = 0, chosen = null;

  const show = async (row, focus) => {
    chosen = row;
    for (const b of list.querySelectorAll("button")) mark(b);
    try {
      const read = await block(row[0], head.folder);
      if (chosen !== row) return;
      const { shown, title } = article(named(read, row[1]), row, head);
      place.replaceChildren(shown);
      if (focus) title.focus();
    } catch (error) {
      blocks.delete(row[0]);
      place.replaceChildren(make("p", { class: "note", role: "alert" },
        `This episode cannot be shown: ${error.message}`));
    }
  };
  const mark = (button) => {
    if (button.row === chosen) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  };
  const button = (row) => {
    const [step, n, won, type, turns, switches, refused, formed, cut] = row;
    const flaws = [refused && `${refused} refused`, formed && `${formed} badly formed`,
      cut && `${cut} cut`].filter(Boolean);
    const one = make("button", { type: "button", onclick: () => show(row, true) },
      make("b", {}, `${step}.${n + 1} `),
      make("span", { class: won ? "up" : "down" }, won ? "won" : "not won"),
      ` in ${turns}` + (head.plan ? `, ${count(switches, "switch")
        .replace("switchs", "switches")}` : "") +
      (flaws.length ? ` · ${flaws.join(", ")}` : ""),
      make("span", { class: "soft" }, ` ${type.replaceAll("_", " ")}`));
    one.row = row;
    mark(one);
    return make("li", {}, one);
  };
  const grow = () => {
    const next = found.slice(shownRows, shownRows + PAGE);
    list.append(...next.map(button));
    shownRows += next.length;
    more.hidden = shownRows >= found.length;
  };
  const filter = () => {
    const { keep, order } = asked(form);
    found = rows.filter(keep).sort(order);
    shownRows = 0;
    list.replaceChildren();
    status.textContent = `${found.length} of ${rows.length} episodes`;
    grow();
  };
  const step = (by) => {
    const at = found.indexOf(chosen) + by;
    if (at < 0 || at >= found.length) return;
    while (shownRows <= at) grow();
    show(found[at], true);
  };

  more.addEventListener("click", grow);
  form.addEventListener("submit", (e) => e.preventDefault());
  form.addEventListener("input", filter);
  root.append(form, status, make("div", { class: "panes" },
    make("nav", { "aria-label": "Episodes" }, list, more),
    make("div", {}, make("p", { class: "steps" },
      make("button", { type: "button", onclick: () => step(-1) }, "‹ previous"),
      make("button", { type: "button", onclick: () => step(1) }, "next ›")), place)));
  form.querySelector("#f-order").value = "last";
  filter();
  if (found.length) await show(found.find((row) => row[2]) || found[0], false);
  document.getElementById("picked")?.remove();
  root.hidden = false;
  root.dataset.ready = Math.round(performance.now());
};
if (root && data && "DecompressionStream" in window) {
  start().catch((error) => { root.dataset.failed = error.message; });
}
