"""How each kind of department names things: its own tables, columns and codes.

Real departments never agreed on a word, and the demonstration would prove little if they did here.
Three dialects stand for three generations of software: `pinyin` (abbreviated pinyin and national
codes), `chinese` (Chinese names and words) and `english` (words and letters).
"""

from __future__ import annotations

from typing import Literal

Dialect = Literal["pinyin", "chinese", "english"]

DIALECT_OF_LINE: dict[str, Dialect] = {
    "public_security": "pinyin",
    "civil_affairs": "chinese",
    "housing": "english",
    "health": "english",
    "human_resources": "pinyin",
    "market_regulation": "english",
    "government_office": "chinese",
    "grassroots": "chinese",
}

TABLES: dict[str, dict[Dialect, str]] = {
    "resident": {"pinyin": "rkjbxx", "chinese": "居民", "english": "Person"},
    "household": {"pinyin": "hxx", "chinese": "住户", "english": "household"},
    "housing_unit": {"pinyin": "fwxx", "chinese": "房屋", "english": "dwelling"},
    "enterprise": {"pinyin": "qyxx", "chinese": "企业", "english": "company"},
    "grid_incident": {"pinyin": "wgsj", "chinese": "网格事件", "english": "incident"},
    "policy_notice": {"pinyin": "zcwj", "chinese": "文件", "english": "notice"},
}

# field -> its column in pinyin, Chinese, English
_COLUMNS: dict[str, tuple[str, str, str]] = {
    "resident_id": ("sfzh", "身份证号", "PersonId"),
    "name": ("xm", "姓名", "FullName"),
    "sex": ("xb", "性别", "gender"),
    "birth_date": ("csrq", "出生日期", "born_on"),
    "ethnic_group": ("mz", "民族", "ethnic_group"),
    "division": ("xzqh", "行政区划", "area_code"),
    "address": ("dz", "地址", "street_address"),
    "household_id": ("hh", "户号", "household_no"),
    "marital_status": ("hyzk", "婚姻状况", "marital"),
    "registered_on": ("djrq", "登记日期", "registered"),
    "phone": ("lxdh", "联系电话", "mobile"),
    "employer": ("gzdw", "工作单位", "works_at"),
    "head_resident_id": ("hzsfzh", "户主身份证号", "head_id"),
    "kind": ("hlx", "户类型", "kind"),
    "members": ("rs", "人数", "members"),
    "house_code": ("fwbm", "房屋编码", "dwelling_no"),
    "usage": ("yt", "用途", "use"),
    "area_sqm": ("jzmj", "建筑面积", "floor_area"),
    "rooms": ("js", "间数", "room_count"),
    "built_year": ("jznd", "建成年份", "built"),
    "registered_at": ("djsj", "登记时间", "registered_at"),
    "owner_resident_id": ("yzsfzh", "业主身份证号", "owner_id"),
    "monthly_rent": ("yzj", "月租金", "rent"),
    "credit_code": ("tyshxydm", "统一社会信用代码", "credit_code"),
    "status": ("zt", "状态", "status"),
    "industry": ("hy", "行业", "trade"),
    "established_on": ("clrq", "成立日期", "founded"),
    "registered_capital": ("zczb", "注册资本", "capital"),
    "employees": ("cyrs", "从业人数", "staff"),
    "legal_representative": ("fddbr", "法定代表人", "principal"),
    "legal_representative_id": ("fddbrsfzh", "法定代表人证件号", "principal_id"),
    "incident_no": ("sjbh", "事件编号", "incident_no"),
    "category": ("lb", "类别", "category"),
    "urgency": ("jjcd", "紧急程度", "urgency"),
    "place": ("dd", "地点", "place"),
    "description": ("ms", "描述", "description"),
    "occurred_at": ("fssj", "发生时间", "occurred_at"),
    "closed_at": ("jasj", "办结时间", "closed_at"),
    "reporter_phone": ("bardh", "上报人电话", "reporter_phone"),
    "notice_no": ("wh", "文号", "notice_no"),
    "title": ("bt", "标题", "title"),
    "body": ("zw", "正文", "body"),
    "topic": ("ztfl", "主题", "topic"),
    "issued_at": ("fwsj", "发文时间", "issued_at"),
    "effective_on": ("sxrq", "施行日期", "effective"),
    "budget_yuan": ("ys", "预算", "budget"),
    "drafter": ("ngr", "拟稿人", "drafter"),
    # Never published: each source keeps them, and a test hunts for their values everywhere else.
    "religion": ("zjxy", "宗教信仰", "religion"),
    "hiv_status": ("hiv", "艾滋检测", "hiv_status"),
    "fingerprint_template": ("zwmb", "指纹模板", "fingerprint"),
    "dispute_record": ("jfjl", "纠纷记录", "disputes"),
    "mortgage_balance": ("dyye", "抵押余额", "mortgage"),
    "bank_account": ("yhzh", "银行账号", "bank_account"),
    "informant_identity": ("xbrsf", "线报人身份", "informant"),
}

# (field, bus value) -> own code in pinyin, Chinese, English
_CODES: dict[str, dict[str, tuple[str, str, str]]] = {
    "sex": {"male": ("1", "男", "M"), "female": ("2", "女", "F"), "unknown": ("9", "未知", "U")},
    "marital_status": {
        "single": ("10", "未婚", "S"),
        "married": ("20", "已婚", "M"),
        "widowed": ("30", "丧偶", "W"),
        "divorced": ("40", "离婚", "D"),
        "unknown": ("90", "未知", "U"),
    },
    "kind": {"family": ("1", "家庭户", "F"), "collective": ("2", "集体户", "C")},
    "usage": {
        "residential": ("10", "住宅", "R"),
        "commercial": ("20", "商业", "C"),
        "office": ("30", "办公", "O"),
        "industrial": ("40", "工业", "I"),
        "other": ("90", "其他", "X"),
    },
    "status": {
        "active": ("1", "在业", "A"),
        "suspended": ("2", "停业", "S"),
        "revoked": ("3", "吊销", "R"),
        "cancelled": ("4", "注销", "C"),
    },
    "category": {
        "safety_hazard": ("01", "安全隐患", "H"),
        "dispute": ("02", "矛盾纠纷", "D"),
        "environment": ("03", "环境", "E"),
        "facility": ("04", "设施", "F"),
        "public_order": ("05", "治安", "P"),
        "other": ("99", "其他", "X"),
    },
    "topic": {
        "economy": ("1", "经济", "EC"),
        "livelihood": ("2", "民生", "LI"),
        "safety": ("3", "安全", "SA"),
        "environment": ("4", "环境", "EN"),
        "personnel": ("5", "人事", "PE"),
        "other": ("9", "其他", "OT"),
    },
}

_INDEX: dict[Dialect, int] = {"pinyin": 0, "chinese": 1, "english": 2}

_CLERKS_FORM: dict[Dialect, str] = {
    "pinyin": "screen",
    "chinese": "表",
    "english": "form",
}


def column(dialect: Dialect, field: str) -> str:
    return _COLUMNS[field][_INDEX[dialect]]


def code(dialect: Dialect, field: str, value: str | None) -> str | None:
    """A bus value in this dialect's own code; values without a code table stay as they are."""
    if value is None or field not in _CODES:
        return value
    return _CODES[field][value][_INDEX[dialect]]


def code_table(dialect: Dialect, field: str) -> dict[str, str]:
    """own code -> bus value, as `values` of a department.yml; empty when the field has no codes."""
    return {own[_INDEX[dialect]]: bus for bus, own in _CODES.get(field, {}).items()}


def form(dialect: Dialect, dataset: str) -> str:
    """The form or screen on which a record of this dataset was typed until now."""
    return f"{_CLERKS_FORM[dialect]} {TABLES[dataset][dialect]}"
