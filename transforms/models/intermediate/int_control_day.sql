select max(day) as as_of_day
from (
    select business_day(max(measured_at)) as day from chronic_care.reading
    union all
    select business_day(max(performed_at)) as day from chronic_care.follow_up
) seen
