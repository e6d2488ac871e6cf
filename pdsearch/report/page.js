"use strict";
(() => {
  const boxes = [...document.querySelectorAll(".plot")];
  // Hover texts are stored once for the whole page; figures hold indices into this list.
  const texts = JSON.parse(document.getElementById("texts").textContent);

  // Figures have the colours of a white page; these settings follow the reader's theme.
  function themed(layout) {
    const style = getComputedStyle(document.documentElement);
    const [ink, line, grid, panel] = ["--ink", "--line", "--grid", "--panel"].map(
      name => style.getPropertyValue(name).trim());
    const change = {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      "font.color": ink,
      "legend.font.color": ink,
      "title.font.color": ink,
      "hoverlabel.bgcolor": panel,
      "hoverlabel.bordercolor": line,
      "hoverlabel.font.color": ink
    };
    // Names inside a figure cover the lines behind them.
    (layout.annotations || []).forEach((_, i) => {
      change[`annotations[${i}].bgcolor`] = panel;
      change[`annotations[${i}].font.color`] = ink;
    });
    for (const key of Object.keys(layout).filter(name => /^[xy]axis\d*$/.test(name))) {
      Object.assign(change, {
        [`${key}.color`]: ink,
        [`${key}.linecolor`]: line,
        [`${key}.tickcolor`]: line,
        [`${key}.gridcolor`]: grid
      });
    }
    return change;
  }

  async function draw(box) {
    const figure = JSON.parse(box.nextElementSibling.textContent);
    for (const trace of figure.data) {
      if (Array.isArray(trace.hovertext)) { trace.hovertext = trace.hovertext.map(i => texts[i]); }
    }
    const height = Number(box.dataset.height);
    const narrow = box.clientWidth < 520;
    figure.layout.height = figure.layout.height || height;
    figure.layout.autosize = true;
    const config = {
      responsive: true,
      displaylogo: false,
      // Small figures keep their hover texts, but a toolbar would cover them.
      displayModeBar: narrow || height < 300 ? false : "hover",
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
      toImageButtonOptions: { scale: 2, filename: box.dataset.name || "pdsearch" }
    };
    await Plotly.newPlot(box, figure.data, figure.layout, config);
    const small = narrow ? { "font.size": 11, "legend.font.size": 10.5 } : {};
    await Plotly.relayout(box, { ...themed(figure.layout), ...small });
  }

  function restyle() {
    for (const box of boxes) { if (box.layout) { Plotly.relayout(box, themed(box.layout)); } }
  }

  // Plotly is stored compressed. Its text is one of the two scripts that the page's policy allows.
  async function load() {
    const packed = atob(document.getElementById("plotly").textContent);
    const bytes = Uint8Array.from(packed, c => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.appendChild(script).remove();
  }

  async function main() {
    await load();
    await Promise.all(boxes.map(draw));
    document.body.dataset.drawn = boxes.length;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
    matchMedia("print").addEventListener("change", restyle);
    // Paper is narrower than most windows, so each figure is redrawn for its width there.
    addEventListener("beforeprint", () => boxes.forEach(box => Plotly.Plots.resize(box)));
  }

  main().catch(error => {
    document.getElementById("undrawn").hidden = false;
    console.error(error);
  });

  // Tables: a click on a heading sorts by its column; another click reverses the order.
  function key(cell) {
    const text = cell.dataset.key ?? cell.textContent.trim();
    const number = Number(text);
    return text === "" ? null : isNaN(number) ? text.toLowerCase() : number;
  }

  function compare(a, b) {
    if (typeof a !== typeof b) { return typeof a === "number" ? -1 : 1; }
    return a < b ? -1 : a > b ? 1 : 0;
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
      const sorted = head.getAttribute("aria-sort");
      const rising = sorted === "descending" || (!sorted && head.dataset.first === "ascending");
      for (const other of heads) { other.removeAttribute("aria-sort"); }
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].sort((p, q) => {
        const a = key(p.cells[column]), b = key(q.cells[column]);
        // Rows without a value stay at the end in either order.
        if (a === null || b === null) { return (a === null) - (b === null); }
        return rising ? compare(a, b) : compare(b, a);
      });
      table.tBodies[0].append(...rows);
    }));
  }

  for (const input of document.querySelectorAll("input[data-filter]")) {
    const table = document.getElementById(input.dataset.filter);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/);
      for (const row of table.tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every(word => text.includes(word));
      }
    });
  }
})();
