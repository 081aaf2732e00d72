select
    order_line_id,
    tenant_id,
    order_id,
    product_id,
    quantity,
    list_amount_fen,
    disc_item_fen,
    line_amount_fen,
    disc_full_reduction_fen + disc_coupon_merchant_fen as disc_merchant_fen,
    disc_coupon_platform_fen + disc_points_fen as disc_platform_fen,
    cash_fen
from mall.order_line
