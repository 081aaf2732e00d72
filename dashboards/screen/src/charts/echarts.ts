// Only the parts of ECharts that the screen draws with.

import { BarChart, LineChart, PieChart } from 'echarts/charts'
import { GridComponent, LegendComponent, TooltipComponent } from 'echarts/components'
import { init, use, type EChartsCoreOption, type EChartsType } from 'echarts/core'
import { CanvasRenderer } from 'echarts/renderers'

use([
  BarChart, LineChart, PieChart, GridComponent, LegendComponent, TooltipComponent, CanvasRenderer,
])

export { init, type EChartsCoreOption, type EChartsType }
