import vue from '@vitejs/plugin-vue'
import { defineConfig } from 'vite'

export default defineConfig({
  base: './',
  plugins: [vue()],
  build: {
    target: 'es2022',
    rolldownOptions: { input: ['index.html', 'operator.html'] },
    // ECharts is one library and one screen: splitting it would only add a round trip.
    chunkSizeWarningLimit: 900,
  },
  server: { proxy: { '/api': 'http://127.0.0.1:8080' } },
})
