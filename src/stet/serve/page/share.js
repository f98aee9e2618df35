// A run as one file: its traces as JSON lines, or as a page that shows them without a server.

/** The modules of the page, each after those that it imports. */
export const MODULES = [
  ...["dom", "api", "model", "marks", "view_step", "view_answer"],
  ...["view_card", "view_timeline", "view_column", "view_form", "share", "main"],
];

export function asLines(traces) {
  return traces.map((trace) => `${JSON.stringify(trace)}\n`).join("");
}

/** The page with its style, its modules and the traces inside; `fetchText` reads the page's files. */
export async function asPage(traces, fetchText) {
  const [html, css, theme, ...sources] = await Promise.all(
    ["./", "page/page.css", "page/theme.js", ...MODULES.map((name) => `page/${name}.js`)].map(fetchText),
  );
  // Modules cannot import each other from inside one file. Their names differ, so one script holds
  // them all, without imports and exports.
  const script = sources
    .map((source) => source.replace(/^import [^;]*;\n/gm, "").replace(/^export (?=(?:async |const |class |function ))/gm, ""))
    .join("\n");
  const data = JSON.stringify(traces).replaceAll("<", "\\u003c"); // no text may end the script
  const end = "</" + "script>";
  const policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'";
  const inside = `<script type="application/json" id="saved">${data}${end}\n<script type="module">\n${script}${end}`;
  return html
    .replace(/<link rel="icon"[^>]*>\n/, () => `<meta http-equiv="Content-Security-Policy" content="${policy}">\n`)
    .replace(/<link rel="stylesheet"[^>]*>/, () => `<style>\n${css}</style>`)
    .replace(/<script src="page\/theme.js"><\/script>/, () => `<script>\n${theme}${end}`)
    .replace(/<script type="module"[^>]*><\/script>/, () => inside);
}

export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000); // some browsers begin to read it later
}
