-- The table that the old-age allowance has been kept in for years: abbreviated pinyin, national codes
-- (1 male, 2 female), days in three spellings, amounts as REAL. People are made up.

CREATE TABLE gljt (
    sfzh TEXT PRIMARY KEY,  -- 身份证号
    xm TEXT NOT NULL,       -- 姓名
    xb TEXT NOT NULL,       -- 性别
    csrq TEXT NOT NULL,     -- 出生日期
    sq TEXT NOT NULL,       -- 社区
    dj TEXT NOT NULL,       -- 独居
    je REAL NOT NULL,       -- 月金额
    dh TEXT,                -- 电话
    yhzh TEXT               -- 银行账号: not shared, not mapped, read by nobody
);

INSERT INTO gljt (sfzh, xm, xb, csrq, sq, dj, je, dh, yhzh) VALUES
    ('330106193805120012', '沈测试甲', '2', '1938/5/12', '330106109001', '是', 300.00, '19900000101', '6222-DEMO-0001'),
    ('330106194109230036', '许样例乙', '1', '1941-09-23', '330106109030', '否', 200.00, '19900000102', '6222-DEMO-0002'),
    ('330106193501010025', '朱演示丙', '2', '19350101', '330106005055', '是', 500, '19900000103', '6222-DEMO-0003'),
    ('330106194406300053', '蒋示范丁', '1', '1944-06-30', '330106007001', '否', 200, NULL, '6222-DEMO-0004');
