"""Every sentence that a rater can see, in each language, in one place.

Templates write `{{ t("sign_in") }}`, refusals carry a key (`errors`), and the rating screen's script gets the messages
named in SCRIPT. What only admins see is written where it is used, in English. To add a language, add its code to
LANGUAGES and its text to every message; a test compares them.
"""

import re
from typing import Any

from markupsafe import Markup

LANGUAGES = {"en": ("en", "English"), "zh": ("zh-CN", "中文")}
"""Code -> the HTML `lang` attribute, and the language's name for itself."""

MESSAGES: dict[str, dict[str, str]] = {
    # every page
    "skip_link": {"en": "Skip to content", "zh": "跳到正文"},
    "home": {"en": "align review, home", "zh": "align review 首页"},
    "account": {"en": "Account", "zh": "账号"},
    "campaigns": {"en": "Campaigns", "zh": "管理标注任务"},
    "sign_out": {"en": "Sign out", "zh": "退出登录"},
    "language": {"en": "Language", "zh": "语言"},
    # signing in
    "sign_in": {"en": "Sign in", "zh": "登录"},
    "name": {"en": "Name", "zh": "用户名"},
    "password": {"en": "Password", "zh": "密码"},
    "no_account": {
        "en": "No account? Ask the person who runs the campaign for an invitation.",
        "zh": "还没有账号？请向任务负责人索取邀请链接。",
    },
    "wrong_credentials": {"en": "The name or the password is wrong.", "zh": "用户名或密码错误。"},
    # an invitation
    "welcome": {"en": "Welcome", "zh": "欢迎"},
    "invited_admin": {"en": "You are invited to run campaigns.", "zh": "邀请您来管理标注任务。"},
    "invited_rater": {"en": "You are invited to rate answers.", "zh": "邀请您来评价回答。"},
    "invited_to": {"en": "Campaign: {campaign}.", "zh": "任务：{campaign}。"},
    "choose_name": {
        "en": "Choose a name and a password to sign in with. Exported data show only a pseudonym, never your name.",
        "zh": "请设置用于登录的用户名和密码。导出的数据只含化名，不含您的用户名。",
    },
    "password_hint": {"en": "At least {count} characters.", "zh": "至少 {count} 个字符。"},
    "begin": {"en": "Begin", "zh": "开始"},
    # the account
    "pseudonym": {"en": "Exported data call you {handle}.", "zh": "您在导出数据中的化名是 {handle}。"},
    "new_password_ends_sessions": {
        "en": "A new password signs you out on every other device.",
        "zh": "修改密码后，其他设备上的登录会失效。",
    },
    "old_password": {"en": "Old password", "zh": "原密码"},
    "new_password": {"en": "New password", "zh": "新密码"},
    "change_password": {"en": "Change the password", "zh": "修改密码"},
    "wrong_old_password": {"en": "The old password is wrong.", "zh": "原密码错误。"},
    # the campaigns of a rater
    "your_campaigns": {"en": "Your campaigns", "zh": "您的标注任务"},
    "rated_count": {"en": "{count} rated", "zh": "已评 {count} 条"},
    "nothing_to_rate": {
        "en": "There is nothing to rate yet. Ask the person who runs the campaign for an invitation.",
        "zh": "暂时没有可评价的内容。请向任务负责人索取邀请链接。",
    },
    "state_paused": {"en": "paused", "zh": "已暂停"},
    "state_closed": {"en": "closed", "zh": "已结束"},
    # the rating screen
    "rate_title": {"en": "Rate: {title}", "zh": "评价：{title}"},
    "progress": {"en": "Items rated", "zh": "已评条数"},
    "progress_count": {"en": "{done} of {total}", "zh": "{done} / {total}"},
    "instructions": {"en": "Instructions", "zh": "评价说明"},
    "item": {"en": "Item", "zh": "待评内容"},
    "prompt": {"en": "Prompt", "zh": "提示词"},
    "answer": {"en": "Answer {side}", "zh": "回答 {side}"},
    "required": {"en": "(required)", "zh": "（必答）"},
    "equal": {"en": "equal", "zh": "相同"},
    "which_is_better": {"en": "Which answer is better?", "zh": "哪个回答更好？"},
    "verdict_a": {"en": "A", "zh": "A 更好"},
    "verdict_slight_a_html": {"en": "<i>slightly</i> A", "zh": "A <i>略好</i>"},
    "verdict_tie": {"en": "tie", "zh": "差不多"},
    "verdict_slight_b_html": {"en": "<i>slightly</i> B", "zh": "B <i>略好</i>"},
    "verdict_b": {"en": "B", "zh": "B 更好"},
    "verdict_both_bad": {"en": "both bad", "zh": "都不好"},
    "verdict_both_good": {"en": "both good", "zh": "都好"},
    "reason_label": {"en": "Reason (optional)", "zh": "理由（选填）"},
    "reason_placeholder": {"en": "Why? (optional)", "zh": "为什么？（选填）"},
    "harmful": {"en": "Harmful", "zh": "有害"},
    "skip_label": {"en": "Reason for skipping", "zh": "跳过的原因"},
    "skip": {"en": "Skip…", "zh": "跳过…"},
    "skip_unclear": {"en": "I cannot tell", "zh": "无法判断"},
    "skip_language": {"en": "Not my language", "zh": "看不懂这种语言"},
    "skip_expertise": {"en": "Beyond my expertise", "zh": "超出我的专业范围"},
    "skip_uncomfortable": {"en": "I would rather not", "zh": "不愿评价"},
    "skip_broken": {"en": "Something is broken", "zh": "内容有误或显示异常"},
    "undo": {"en": "Undo", "zh": "撤销"},
    "keys": {"en": "Keys", "zh": "快捷键"},
    "send": {"en": "Send", "zh": "提交"},
    "undo_last": {"en": "Undo the last one", "zh": "撤销上一条"},
    "look_again": {"en": "Look again", "zh": "重新查看"},
    "key_scale": {"en": "from A to B", "zh": "从“A 更好”到“B 更好”"},
    "key_both": {"en": "both bad, both good", "zh": "都不好、都好"},
    "key_send": {"en": "send", "zh": "提交"},
    "key_questions": {"en": "go to the questions", "zh": "转到问题"},
    "key_reason": {"en": "write a reason", "zh": "填写理由"},
    "key_leave_reason": {"en": "leave the reason", "zh": "退出理由输入框"},
    "key_flag": {"en": "flag as harmful", "zh": "标记为有害"},
    "key_skip": {"en": "skip, with a reason", "zh": "跳过并选择原因"},
    "key_undo": {"en": "undo", "zh": "撤销"},
    "key_cards": {"en": "go to an answer or the prompt, then scroll", "zh": "转到回答或提示词，然后可滚动"},
    "use_keys": {"en": "Use keys", "zh": "启用快捷键"},
    "close": {"en": "Close", "zh": "关闭"},
    "needs_javascript": {
        "en": "Rating needs JavaScript. All of it comes from this site.",
        "zh": "评价需要启用 JavaScript。脚本全部来自本站，不加载任何外部内容。",
    },
    "tools": {"en": "Tools that the answers may call", "zh": "回答可以调用的工具"},
    "role_user": {"en": "user", "zh": "用户"},
    "role_assistant": {"en": "assistant", "zh": "助手"},
    "role_system": {"en": "system", "zh": "系统"},
    "role_tool": {"en": "tool", "zh": "工具"},
    "image": {"en": "[image: {description}]", "zh": "[图片：{description}]"},
    "image_without_description": {"en": "[image without a description]", "zh": "[图片，无说明]"},
    "cut": {"en": "[{count} more characters are not shown]", "zh": "[还有 {count} 个字符未显示]"},
    "too_deep": {"en": "[nested too deeply to be shown]", "zh": "[嵌套过深，无法显示]"},
    # what the rating screen's script says
    "no_storage": {
        "en": "This browser cannot store anything: do not close the page before everything is sent.",
        "zh": "此浏览器无法在本地保存数据：全部提交之前请不要关闭页面。",
    },
    "offline": {
        "en": "You are offline. Your rating is kept here and will be sent.",
        "zh": "网络已断开。您的评价已保存在本机，联网后会自动提交。",
    },
    "server_busy": {
        "en": "The server is busy. Your rating is kept here and will be sent.",
        "zh": "服务器繁忙。您的评价已保存在本机，稍后会自动提交。",
    },
    "sign_in_again": {
        "en": "Sign in again in another tab, then reload this page. Your rating is kept here.",
        "zh": "请在另一个标签页重新登录，然后刷新本页。您的评价已保存在本机。",
    },
    "late": {
        "en": "This item was given to another rater in the meantime. Your rating is stored but not counted.",
        "zh": "此条内容已分配给其他评价者。您的评价已保存，但不计入结果。",
    },
    "not_accepted": {"en": "The server did not accept this rating.", "zh": "服务器没有接受这条评价。"},
    "done_title": {"en": "All done", "zh": "全部完成"},
    "done_text": {
        "en": "There is nothing more for you here right now. Thank you.",
        "zh": "目前没有更多需要您评价的内容。谢谢！",
    },
    "paused_title": {"en": "Paused", "zh": "已暂停"},
    "paused_text": {
        "en": "The campaign is paused. Everything you sent is stored.",
        "zh": "任务已暂停。您提交的评价都已保存。",
    },
    "closed_title": {"en": "Closed", "zh": "已结束"},
    "closed_text": {"en": "This campaign is over. Thank you.", "zh": "此任务已结束。谢谢！"},
    "choose_verdict": {"en": "Choose a verdict first: 1 to 7.", "zh": "请先选择评价结果（按键 1 到 7）。"},
    "please_answer": {"en": "Please answer: {question}", "zh": "请回答：{question}"},
    # problems
    "problem_title": {"en": "That did not work", "zh": "操作未完成"},
    "to_start": {"en": "Go to the start page", "zh": "返回首页"},
    "signed_out": {"en": "Please sign in.", "zh": "请先登录。"},
    "foreign_origin": {
        "en": "This request did not come from a page of this server.",
        "zh": "此请求不是从本站页面发出的。",
    },
    "stale_page": {"en": "This page is out of date. Reload it.", "zh": "页面已过期，请刷新。"},
    "not_found": {"en": "There is nothing here.", "zh": "此页面不存在。"},
    "too_many": {"en": "Too many attempts. Wait a moment.", "zh": "尝试次数过多，请稍后再试。"},
    "unavailable": {
        "en": "The server cannot save anything just now. Try again in a moment.",
        "zh": "服务器暂时无法保存数据，请稍后再试。",
    },
    "bad_request": {"en": "The request could not be read.", "zh": "无法读取此请求。"},
    "method_not_allowed": {"en": "This page does not take that.", "zh": "此页面不支持该操作。"},
    "too_slow": {"en": "The request took too long to arrive.", "zh": "请求传输超时。"},
    "too_large": {"en": "The request is too large.", "zh": "请求内容过大。"},
    "invitation_used": {
        "en": "This invitation was used or has expired. Ask for another.",
        "zh": "此邀请链接已被使用或已过期，请索取新的链接。",
    },
    "name_taken": {"en": "This name cannot be used. Choose another.", "zh": "此用户名不可用，请换一个。"},
    "field_missing": {"en": "{field} is missing.", "zh": "请填写{field}。"},
    "field_short": {"en": "{field} needs at least {limit} characters.", "zh": "{field}至少需要 {limit} 个字符。"},
    "field_long": {"en": "{field} can have at most {limit} characters.", "zh": "{field}最多 {limit} 个字符。"},
    "already_rated": {
        "en": "You rated this item already. To change your rating, undo first.",
        "zh": "您已评价过此条内容。如需修改，请先撤销。",
    },
    "key_reused": {
        "en": "This request has the key of another one. Reload the page.",
        "zh": "此请求与另一请求的标识重复，请刷新页面。",
    },
    "nothing_to_undo": {"en": "There is nothing to undo.", "zh": "没有可以撤销的内容。"},
    "skipped_item_gone": {
        "en": "The item you skipped was given to another rater in the meantime.",
        "zh": "您跳过的内容已分配给其他评价者。",
    },
    "no_such_item": {"en": "The campaign has no such item.", "zh": "此任务中没有该条目。"},
    "no_such_question": {"en": "There is no question {name}.", "zh": "没有名为 {name} 的问题。"},
    "no_such_answer": {
        "en": "{answer} is not an answer to the question {name}.",
        "zh": "{answer} 不是问题 {name} 的有效答案。",
    },
}

SCRIPT = (
    *("no_storage", "offline", "server_busy", "sign_in_again", "late", "not_accepted", "done_title", "done_text"),
    *("paused_title", "paused_text", "closed_title", "closed_text", "choose_verdict", "please_answer"),
    "progress_count",
)
"""The messages that static/rate.js uses."""


def text(key: str, language: str = "en", **values: Any) -> str:
    """A message with its values filled in; those whose key ends with `_html` are markup."""
    message = MESSAGES[key][language]
    if key.endswith("_html"):
        return Markup(message).format(**values)
    return message.format(**values)


def role_name(role: str, language: str) -> str:
    """The author of a message in a conversation."""
    return text(f"role_{role}", language) if f"role_{role}" in MESSAGES else role


def script_messages(language: str) -> dict[str, str]:
    """What the rating screen's script says."""
    return {key: MESSAGES[key][language] for key in SCRIPT}


def negotiate(accept_language: str) -> str:
    """The language of ours that a browser's `Accept-Language` likes best (RFC 9110, 12.5.4), else English."""
    best, best_quality = "en", 0.0
    for entry in accept_language[:500].lower().split(","):
        tag, _, parameter = entry.strip().partition(";")
        quality = re.fullmatch(r"\s*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*", parameter) if parameter else None
        weight = float(quality[1]) if quality else (0.0 if parameter else 1.0)
        code = tag.strip().partition("-")[0]
        if code in LANGUAGES and weight > best_quality:
            best, best_quality = code, weight
    return best
