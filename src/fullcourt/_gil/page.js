"use strict";
// Draws the recording in #data. Every row is one canvas; all share the stretch of time `view`, in microseconds.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const timeline = document.getElementById("timeline");
  const tip = document.getElementById("tip");
  const told = document.getElementById("told");
  const view = { begin: 0, end: data.wall_us };
  const rows = [];
  const SHADES = ["#4e79a7", "#b07aa1", "#59a14f", "#9c755f", "#e15759", "#76b7b2", "#edc948", "#ff9da7"];

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const clamp = (x, low, high) => Math.max(low, Math.min(high, x));
  const seconds = (us) => (us / 1e6).toFixed(us < 1e6 && view.end - view.begin < 2e5 ? 4 : 3) + " s";

  function addRow(kind, name, height, draw, tell, label) {
    const row = document.createElement("div");
    row.className = "row " + kind;
    const title = document.createElement("div");
    title.className = "name";
    title.textContent = name;
    title.title = name;
    row.append(title);
    if (draw) {
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", label || name);
      if (tell) canvas.tabIndex = 0;
      row.append(canvas);
      rows.push({ canvas, draw, tell, height });
    }
    timeline.append(row);
    return row;
  }

  // The first cell that ends after `at`, in a list sorted by its first element.
  function find(list, at) {
    let low = 0, high = list.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (list[middle][0] < at) low = middle + 1; else high = middle;
    }
    return low;
  }

  // The states of a thread in a stretch of time: shares in the order of data.states, or null where it was not there.
  function shares(thread, begin, end) {
    const width = data.cell_us;
    const sums = new Array(data.states.length).fill(0);
    let seen = 0;
    const cells = thread.cells;
    for (let i = find(cells, Math.floor(begin / width)); i < cells.length && cells[i][0] * width < end; i++) {
      const part = Math.min(end, (cells[i][0] + 1) * width) - Math.max(begin, cells[i][0] * width);
      if (part <= 0) continue;
      const parts = cells[i][1];
      for (let j = 0; j < parts.length; j += 2) sums[parts[j]] += parts[j + 1] * part;
      seen += part;
    }
    if (!seen) return null;
    const total = sums.reduce((a, b) => a + b, 0) || 1;
    return sums.map((sum) => sum / total);
  }

  function drawThread(thread) {
    return (g, w, h, colours) => {
      const step = (view.end - view.begin) / w;
      const width = Math.max(1, Math.floor(data.cell_us / step / 4));
      for (let x = 0; x < w; x += width) {
        const begin = view.begin + x * step;
        if (begin < thread.began_us - data.cell_us || begin > thread.ended_us) continue;
        const found = shares(thread, begin, begin + width * step);
        if (!found) continue;
        let y = h;
        found.forEach((share, i) => {
          if (share <= 0) return;
          g.fillStyle = colours[i];
          g.fillRect(x, y - share * h, width, share * h + 0.5);
          y -= share * h;
        });
      }
    };
  }

  function tellThread(thread) {
    return (at) => {
      const width = Math.max(data.cell_us, (view.end - view.begin) / 400);
      const found = shares(thread, at - width / 2, at + width / 2);
      if (!found) return thread.name + "\nnot there";
      const parts = found.map((share, i) => [share, data.states[i].meaning]).filter((part) => part[0] >= 0.01);
      parts.sort((a, b) => b[0] - a[0]);
      return thread.name + "\n" + parts.map((part) => Math.round(100 * part[0]) + " %  " + part[1]).join("\n");
    };
  }

  const ownerAt = (owners, at) => {
    const i = find(owners, at + 1e-9) - 1;
    return i >= 0 ? owners[i][1] : -1;
  };

  function drawGil(process, gil) {
    return (g, w, h) => {
      const perUs = w / (view.end - view.begin);
      const owners = gil.owners;
      g.font = "10px system-ui, sans-serif";
      g.textBaseline = "middle";
      for (let i = Math.max(0, find(owners, view.begin) - 1); i < owners.length && owners[i][0] < view.end; i++) {
        const owner = owners[i][1];
        if (owner < 0) continue;
        const end = i + 1 < owners.length ? owners[i + 1][0] : data.wall_us;
        const x = (Math.max(view.begin, owners[i][0]) - view.begin) * perUs;
        const width = (Math.min(view.end, end) - view.begin) * perUs - x;
        const letter = process.letters[owner];
        g.fillStyle = SHADES[(letter || 0) % SHADES.length];
        g.fillRect(x, 2 + (letter || 0) % 3, Math.max(0.6, width), h - 6);
        if (width > 14 && letter !== undefined) {
          g.fillStyle = "#fff";
          g.fillText(letterOf(letter), x + 3, h / 2);
        }
      }
    };
  }

  const letterOf = (i) => (i < 26 ? String.fromCharCode(65 + i) : "#" + i);

  function drawSpans(spans) {
    return (g, w, h, _colours, ink) => {
      const perUs = w / (view.end - view.begin);
      g.font = "10px system-ui, sans-serif";
      g.textBaseline = "middle";
      for (const [begin, end, name, kind] of spans) {
        if (end < view.begin || begin > view.end) continue;
        const x = (Math.max(begin, view.begin) - view.begin) * perUs;
        const width = (Math.min(end, view.end) - view.begin) * perUs - x;
        g.fillStyle = colour(kind);
        g.fillRect(x, 2, Math.max(0.6, width - 0.6), h - 4);
        if (width > 40) {
          g.save();
          g.beginPath(); g.rect(x, 0, width - 4, h); g.clip();
          g.fillStyle = colour("paper");
          g.fillText(name, x + 4, h / 2);
          g.restore();
        }
      }
      void ink;
    };
  }

  function drawCores(g, w, h, _colours, ink) {
    const top = Math.max(1, data.n_cores, ...data.cores.map((c) => c[1] + c[2]));
    const perUs = w / (view.end - view.begin);
    const step = (view.end - view.begin) / w;
    const cells = data.cores;
    for (let x = 0; x < w; x++) {
      const begin = view.begin + x * step, end = begin + step;
      let held = 0, native = 0, n = 0;
      for (let i = find(cells, Math.floor(begin / data.cell_us)); i < cells.length && cells[i][0] * data.cell_us < end; i++) {
        held += cells[i][1]; native += cells[i][2]; n++;
      }
      if (!n) continue;
      const a = held / n / top * (h - 2), b = native / n / top * (h - 2);
      g.fillStyle = colour("held"); g.fillRect(x, h - a, 1, a);
      g.fillStyle = colour("native"); g.fillRect(x, h - a - b, 1, b);
    }
    g.strokeStyle = ink; g.globalAlpha = 0.35; g.setLineDash([3, 3]);
    for (let core = 1; core <= data.n_cores; core++) {
      const y = h - core / top * (h - 2);
      g.beginPath(); g.moveTo(0, y); g.lineTo(w, y); g.stroke();
    }
    g.globalAlpha = 1; g.setLineDash([]);
    void perUs;
  }

  function tellCores(at) {
    const cell = data.cores[find(data.cores, Math.floor(at / data.cell_us))];
    if (!cell) return "no core used";
    return (cell[1] + cell[2]).toFixed(2) + " of " + data.n_cores + " cores used\n" +
      cell[1].toFixed(2) + " with the GIL\n" + cell[2].toFixed(2) + " without it";
  }

  function drawAxis(g, w, h, _colours, ink) {
    const length = view.end - view.begin;
    const rough = length / Math.max(2, w / 90);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= rough) || rough;
    g.font = "11px system-ui, sans-serif"; g.textBaseline = "middle"; g.fillStyle = ink; g.strokeStyle = ink;
    for (let t = Math.ceil(view.begin / step) * step; t <= view.end; t += step) {
      const x = (t - view.begin) / length * w;
      g.globalAlpha = 0.4; g.beginPath(); g.moveTo(x, h - 4); g.lineTo(x, h); g.stroke(); g.globalAlpha = 1;
      const text = step < 1e3 ? (t / 1e3).toFixed(1) + " ms" : step < 1e6 ? Math.round(t / 1e3) + " ms" : t / 1e6 + " s";
      g.textAlign = x < 20 ? "left" : x > w - 30 ? "right" : "center";
      g.fillText(text, x, h / 2 - 2);
    }
  }

  function draw() {
    const colours = data.states.map((state) => colour(state.id));
    const ink = colour("soft");
    const scale = window.devicePixelRatio || 1;
    for (const row of rows) {
      const w = row.canvas.clientWidth, h = row.height;
      if (!w) continue;
      row.canvas.width = Math.round(w * scale);
      row.canvas.height = Math.round(h * scale);
      const g = row.canvas.getContext("2d");
      g.scale(scale, scale);
      row.draw(g, w, h, colours, ink);
    }
    document.getElementById("shown").textContent =
      seconds(view.begin) + " to " + seconds(view.end) + " of " + seconds(data.wall_us);
  }

  let due = 0;
  const redraw = () => { cancelAnimationFrame(due); due = requestAnimationFrame(draw); };

  function show(begin, end) {
    const length = clamp(end - begin, Math.min(2000, data.wall_us), data.wall_us);
    view.begin = clamp(begin, 0, data.wall_us - length);
    view.end = view.begin + length;
    redraw();
  }
  const zoom = (factor, at) => {
    const middle = at === undefined ? (view.begin + view.end) / 2 : at;
    show(middle - (middle - view.begin) * factor, middle + (view.end - middle) * factor);
  };
  const pan = (part) => { const by = part * (view.end - view.begin); show(view.begin + by, view.end + by); };

  const timeAt = (canvas, clientX) => {
    const box = canvas.getBoundingClientRect();
    return view.begin + (clientX - box.left) / box.width * (view.end - view.begin);
  };

  function build() {
    addRow("axis", "", 18, drawAxis);
    addRow("cores", "cores used, of " + data.n_cores, 56, drawCores, tellCores,
      "Cores used over time: blue with the GIL, green without it");
    for (const process of data.processes) {
      const shown = process.threads.filter((thread) => thread.cells.length);
      const tasks = data.lanes.filter((lane) => lane.pid === process.pid);
      if (!shown.length && !tasks.length) continue;
      addRow("process", process.title);
      process.letters = {};
      shown.forEach((thread, i) => { process.letters[thread.index] = i; });
      process.gils.forEach((gil, i) => {
        const name = process.gils.length === 1 ? "GIL: who held it" : "GIL of interpreter " + i;
        const tell = (at) => {
          const owner = process.threads.find((thread) => thread.index === ownerAt(gil.owners, at));
          return owner ? letterOf(process.letters[owner.index]) + " " + owner.name + " held the GIL" : "nobody held the GIL";
        };
        addRow("gil", name, 16, drawGil(process, gil), tell,
          name + ": held " + Math.round(100 * gil.held_share) + " % of the time");
      });
      for (const lane of tasks) {
        const tell = (at) => {
          const span = lane.spans.find((s) => s[0] <= at && at <= s[1]);
          return span ? span[2] + "\n" + ((span[1] - span[0]) / 1e3).toFixed(2) + " ms" : "nothing";
        };
        addRow("tasks", lane.name, 18, drawSpans(lane.spans), tell, lane.name + ": " + lane.spans.length + " spans");
      }
      shown.forEach((thread, i) => {
        const mark = process.gils.length ? letterOf(i) + "  " : "";
        const row = addRow("thread", mark + thread.name, 22, drawThread(thread), tellThread(thread), thread.label);
        row.dataset.tid = thread.tid;
        row.dataset.pid = process.pid;
      });
    }
  }

  build();
  draw();

  for (const row of rows) {
    if (!row.tell) continue;
    const say = (at, x, y) => {
      tip.textContent = seconds(at) + "\n" + row.tell(at);
      tip.style.display = "block";
      tip.style.left = Math.min(x + 14, innerWidth - tip.offsetWidth - 8) + "px";
      tip.style.top = Math.min(y + 14, innerHeight - tip.offsetHeight - 8) + "px";
    };
    row.canvas.addEventListener("mousemove", (e) => say(timeAt(row.canvas, e.clientX), e.clientX, e.clientY));
    row.canvas.addEventListener("mouseleave", () => { tip.style.display = "none"; });
    row.canvas.addEventListener("blur", () => { tip.style.display = "none"; });
    row.canvas.addEventListener("focus", () => {
      told.textContent = row.canvas.getAttribute("aria-label");
    });
  }

  timeline.addEventListener("wheel", (e) => {
    if (!(e.target instanceof HTMLCanvasElement)) return;
    if (Math.abs(e.deltaX) > Math.abs(e.deltaY)) { pan(e.deltaX / 1000); e.preventDefault(); return; }
    if (!e.ctrlKey && !e.metaKey && !e.shiftKey) return; // the page itself scrolls
    zoom(Math.exp(clamp(e.deltaY || e.deltaX, -200, 200) / 300), timeAt(e.target, e.clientX));
    e.preventDefault();
  }, { passive: false });

  timeline.addEventListener("dblclick", (e) => {
    if (e.target instanceof HTMLCanvasElement) zoom(0.4, timeAt(e.target, e.clientX));
  });

  let drag = null;
  timeline.addEventListener("pointerdown", (e) => {
    if (e.target instanceof HTMLCanvasElement) drag = { x: e.clientX, begin: view.begin, end: view.end, w: e.target.clientWidth };
  });
  addEventListener("pointermove", (e) => {
    if (!drag) return;
    const by = (drag.x - e.clientX) / drag.w * (drag.end - drag.begin);
    show(drag.begin + by, drag.end + by);
  });
  addEventListener("pointerup", () => { drag = null; });

  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || e.target instanceof HTMLButtonElement) return;
    const lanes = rows.filter((row) => row.tell).map((row) => row.canvas);
    const here = lanes.indexOf(document.activeElement);
    const acts = {
      "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), "0": () => show(0, data.wall_us),
      ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2), Home: () => show(0, view.end - view.begin),
      End: () => show(data.wall_us - (view.end - view.begin), data.wall_us),
      ArrowDown: () => here >= 0 && lanes[Math.min(lanes.length - 1, here + 1)].focus(),
      ArrowUp: () => here >= 0 && lanes[Math.max(0, here - 1)].focus(),
    };
    const vertical = e.key === "ArrowDown" || e.key === "ArrowUp";
    if (!acts[e.key] || (here < 0 && (vertical || e.key === "Home" || e.key === "End"))) return;
    acts[e.key]();
    e.preventDefault();
  });

  document.getElementById("in").addEventListener("click", () => zoom(0.5));
  document.getElementById("out").addEventListener("click", () => zoom(2));
  document.getElementById("all").addEventListener("click", () => show(0, data.wall_us));
  addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  window.fullcourt = { data, view, show, zoom, shares, ready: true };
})();
