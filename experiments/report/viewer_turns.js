// One episode: its segments, turns, and tokens in colour.
const named = (block, n) => {
  const [game, task, type, flags, score, credit, length, followed] =
    block.episodes[n];
  const first = block.episodes.slice(0, n).reduce((sum, e) => sum + e[6], 0);
  const turns = Array.from({ length },
    (_, t) => block.turns.map((column) => column[first + t]));
  const text = (k) => block.texts[k];
  const spell = (word) => places(word).map((k) => block.tokens[k]);
  let segment = -1;
  const read = turns.map((turn, t) => {
    const starts = t === 0 || (turn[8] & DECIDED.switch) > 0;
    segment += starts ? 1 : 0;
    return {
      t, starts, segment,
      prompt: spell(turn[0]), response: spell(turn[1]),
      logs: places(turn[2]).map(logProb), bits: Array.from(turn[3], Number),
      seen: text(turn[4]), listed: places(turn[5]).map(text), did: text(turn[6]),
      subgoal: text(turn[7]), flags: turn[8], reward: turn[9],
      text: turn[10] < 0 ? null : text(turn[10]),
    };
  });
  return {
    game: text(game), task: text(task), type: text(type), score, credit,
    strategy: followed && text(followed[0]), candidate: followed && followed[1] + 1,
    useless: new Set((followed && followed[2]) || []),
    unjudged: Boolean(followed) && followed[2] === null,
    won: (flags & 1) > 0, turns: read, segments: segment + 1,
    end: flags & 4 ? "cut at the turn limit"
      : flags & 2 ? "ended by the game" : "not ended",
  };
};

const advantage = (credit, name, turn) => {
  const there = credit[name] && credit[name][turn.t] !== null;
  // The planner is credited where a segment starts and nowhere else.
  return there && (name !== "advantage_high" || turn.starts)
    ? credit[name][turn.t] : undefined;
};
const scaleOf = (credit) => Math.max(1, ...ADVANTAGES.flatMap(([, name]) =>
  (credit[name] || []).map((x) => Math.abs(x || 0))));
const tokenCredit = (credit, turn, bits) => {
  if (credit.advantage) return bits ? credit.advantage[turn.t] : undefined;
  let sum;
  for (const [bit, name] of [[LOW, "advantage_low"], [HIGH, "advantage_high"],
    [SWITCH, "advantage_switch"]]) {
    if (bits & bit && credit[name]) sum = (sum || 0) + credit[name][turn.t];
  }
  return sum;
};
const carried = (bits, credit) => {
  if (credit.advantage) return bits ? "the response" : "none";
  const names = [];
  if (bits & LOW) names.push("action");
  if (bits & HIGH) names.push("subgoal");
  if (bits & SWITCH) names.push("switch");
  return names.join(" and ") || "none";
};

const bars = (episode, turn, scale) => {
  const shaped = episode.credit.shaped_reward;
  const reward = number(turn.reward) +
    (shaped ? ` → ${number(shaped[turn.t])} shaped` : "");
  const cells = [make("div", {}, make("span", { class: "name" }, "reward"),
    make("span", {}, reward))];
  for (const [label, name] of ADVANTAGES) {
    const value = advantage(episode.credit, name, turn);
    if (value === undefined) continue;
    const width = `${(50 * Math.abs(value) / scale).toFixed(1)}%`;
    cells.push(make("div", {}, make("span", { class: "name" }, label),
      make("span", { class: "bar" }, make("i",
        { class: value >= 0 ? "plus" : "minus", style: { width } })),
      make("span", { class: "value" }, number(value))));
  }
  return make("div", { class: "credit" }, ...cells);
};

const share = (x) => x > 0.9995 ? "over 99.9 %" : `${(100 * x).toPrecision(3)} %`;

// A response, token by token: one of three things in colour, all of them in words.
const tokenView = (episode, turn, scale) => {
  const told = make("output", { class: "told" });
  let current = -1;
  const about = (k) => {
    const credit = tokenCredit(episode.credit, turn, turn.bits[k]);
    return `token ${k + 1} of ${turn.response.length}, id ${turn.response[k][0]}: ` +
      `log-prob ${turn.logs[k].toPrecision(2).replace("-", "−")}, ` +
      `probability ${share(Math.exp(turn.logs[k]))}, ` +
      `credit ${credit === undefined ? "none" : number(credit)}, ` +
      `carries that of ${carried(turn.bits[k], episode.credit)}`;
  };
  const spans = turn.response.map(([, text], k) => {
    const credit = tokenCredit(episode.credit, turn, turn.bits[k]);
    const strength = Math.min(1, Math.abs(credit || 0) / scale);
    const unlikely = Math.min(1, -turn.logs[k] / 3);
    const sign = credit === undefined ? "" : credit < 0 ? "minus" : "plus";
    return make("span", {
      class: `token ${sign}`, "data-bits": turn.bits[k], title: about(k),
      style: { "--strength": strength.toFixed(3), "--unlikely": unlikely.toFixed(3) },
    }, text);
  });
  const go = (k) => {
    spans[current]?.classList.remove("current");
    current = Math.max(0, Math.min(spans.length - 1, k));
    spans[current]?.classList.add("current");
    if (spans.length) told.textContent = about(current);
  };
  const line = make("pre", {
    class: "tokens", tabindex: 0, role: "group",
    "aria-label": "Response, token by token; left and right arrow move",
    onkeydown: (e) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
      if (by) { e.preventDefault(); go(current + by); }
    },
    onclick: (e) => { if (spans.includes(e.target)) go(spans.indexOf(e.target)); },
  }, ...spans);
  return make("div", {}, line, told);
};

const inside = (episode, turn, scale, unread) => {
  const text = turn.text ?? joined(turn.response.filter(([id]) => !unread.has(id)));
  const values = Object.entries(episode.credit).map(([name, x]) =>
    `${name.replaceAll("_", " ")} ${number(x[turn.t])}`);
  return [
    make("h4", {}, `Response, ${count(turn.response.length, "token")}`),
    tokenView(episode, turn, scale),
    make("h4", {}, "As it was read"), make("pre", {}, text),
    make("h4", {}, `Prompt, ${count(turn.prompt.length, "token")}` +
      (turn.flags & DECIDED.cut ? ", cut to fit" : "")),
    make("pre", {}, joined(turn.prompt)),
    make("h4", {}, `${count(turn.listed.length, "action")} to choose from`),
    make("pre", {}, turn.listed.join("\n")),
    make("h4", {}, "All numbers of this turn"),
    make("p", { class: "soft" }, values.join(" · ") || "none"),
  ];
};

const turnItem = (episode, turn, scale, head) => {
  const said = turn.flags & DECIDED.said ? "SWITCH" : "KEEP";
  const flaws = [["badly formed", !(turn.flags & DECIDED.formed)],
    ["not admissible", !(turn.flags & DECIDED.listed)],
    ["prompt cut", turn.flags & DECIDED.cut],
    ["judged useless", episode.useless.has(turn.t)]]
    .filter(([, there]) => there)
    .map(([text]) => make("span", { class: "tag down" }, text));
  const more = make("details", {
    ontoggle: () => {
      if (more.open && more.childElementCount === 1) {
        more.append(...inside(episode, turn, scale, new Set(head.unread)));
      }
    },
  }, make("summary", {}, "prompt and response, token by token"));
  return make("li", { class: turn.starts ? "turn starts" : "turn",
    style: hue(turn.segment) },
  make("div", { class: "head" }, make("span", { class: "number" }, turn.t + 1),
    head.plan ? make("span", { class: turn.starts ? "said switch" : "said" }, said)
      : null,
    head.plan ? make("span", {}, turn.subgoal || "(no subgoal)") : null),
  make("div", { class: "seen" }, turn.seen),
  make("div", { class: "did" }, `› ${turn.did || "(nothing)"} `, ...flaws),
  bars(episode, turn, scale), more);
};

const legends = {
  credit: "Blue: the token was made likelier; orange, dashed: less likely. The " +
    "stronger, the more credit; no colour: none. One number a turn and block: " +
    "where an estimator gives each token its own, their mean.",
  log: "Red: the token was unlikely when it was drawn; full colour from 3 nats on. " +
    "Log-probs are kept to half a percent.",
  mask: "Whose credit a token carries: blue the action's, green the subgoal's, " +
    "violet the switch's; bold where it carries two; no colour: not trained.",
};
const colouring = (shown) => {
  const about = make("p", { class: "soft", "aria-live": "polite" });
  const set = (kind) => {
    shown.dataset.colour = kind;
    about.textContent = legends[kind];
  };
  const names = { credit: "credit", log: "log-prob", mask: "mask" };
  const radios = Object.entries(names).map(([kind, name]) => make("label",
    { class: "tick" }, make("input", { type: "radio", name: "colour", value: kind,
      checked: kind === "credit", onchange: () => set(kind) }), ` ${name}`));
  set("credit");
  return make("div", {}, make("fieldset", {}, make("legend", {},
    "Colour of tokens"), ...radios), about);
};

const article = (episode, row, head) => {
  const [step, n] = row;
  const scale = scaleOf(episode.credit);
  const title = make("h3", { tabindex: -1 }, `Iteration ${step}, episode ${n + 1}: `,
    make("span", { class: episode.won ? "up" : "down" },
      episode.won ? "won" : "not won"),
    ` in ${count(episode.turns.length, "turn")}` +
    (head.plan ? `, ${count(episode.segments, "subgoal")}` : ""));
  const shown = make("article", { class: "card shown" });
  const starts = episode.turns.filter((turn) => turn.starts);
  const strip = starts.map((turn, k) => {
    const end = starts[k + 1]?.t ?? episode.turns.length;
    return make("span", { title: turn.subgoal, style: {
      ...hue(k), flex: `${end - turn.t} 1 0` } }, turn.subgoal);
  });
  shown.append(title, make("p", {}, episode.task),
    make("p", { class: "soft" }, `${episode.type} · score ` +
      `${number(episode.score)} · ${episode.end} · ${episode.game}`),
    episode.strategy === null ? "" : make("p", {}, make("b", {}, "strategy"),
      ` ${episode.strategy || "(nothing)"} `, make("span", { class: "soft" },
        `candidate ${episode.candidate}` + (episode.unjudged
          ? " · the judgement could not be read" : ""))),
    colouring(shown),
    head.plan ? make("div", { class: "strip" }, ...strip) : "",
    make("ol", { class: "turns" },
      ...episode.turns.map((turn) => turnItem(episode, turn, scale, head))));
  return { shown, title };
};
