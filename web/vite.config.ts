import { defineConfig } from "vite";

const plant = process.env.TICKERPLANT_URL ?? "http://127.0.0.1:8000";

export default defineConfig({
  base: "./",
  build: {
    outDir: "../src/tickerplant/api/static",
    emptyOutDir: true,
    chunkSizeWarningLimit: 2000,
    rollupOptions: { input: ["index.html", "docs.html"] },
  },
  server: { proxy: { "/v1": { target: plant, ws: true }, "/health": plant, "/openapi.json": plant } },
});
