-- The housing bureau's own table, as its own program made it; deptbus adds triggers and nothing else.
CREATE TABLE fangwu (
    fwbm text PRIMARY KEY,
    sqdm text NOT NULL,
    zl text NOT NULL,
    yt text NOT NULL,
    mj numeric(10, 2) NOT NULL,
    fjs integer,
    jcnf integer,
    dbsj timestamptz NOT NULL DEFAULT now(),
    qlr_sfzh text,
    yzj numeric(12, 2)
);
