import { createApp } from 'vue'
import '../theme.css'
import OperatorPage from './OperatorPage.vue'
import './operator.css'

createApp(OperatorPage).mount('#app')
